"""Axial attention against a softmax over explicit sets of keys."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.nn.axial import axial_attention

GRID = (2, 3, 4)


def by_loops(query, key, value, grid, key_grid, causal, text):
    out = np.zeros(query.shape)
    keys = list(itertools.product(*map(range, key_grid)))
    for n, place in enumerate(itertools.product(*map(range, grid))):
        centre = [i * k // g for i, k, g in zip(place, key_grid, grid, strict=True)]
        seen = [m for m, other in enumerate(keys) if np.count_nonzero(np.subtract(other, centre)) <= 1]
        seen = [m for m in seen if not (causal and m > n)]
        for b, h in np.ndindex(query.shape[0], query.shape[2]):
            k, v = key[b, seen, h], value[b, seen, h]
            if text is not None:
                k, v = (
                    np.concatenate([x, t[b, text[2][b], h]]) for x, t in zip((k, v), text[:2], strict=True)
                )
            scores = np.exp(k @ query[b, n, h] / np.sqrt(query.shape[-1]))
            out[b, n, h] = scores @ v / scores.sum()
    return out


@pytest.mark.parametrize(
    "grid, key_grid, causal, texts",
    [
        (GRID, None, False, 0),
        (GRID, None, True, 0),
        ((5,), None, True, 2),
        (GRID, (1, 2, 5), False, 3),
        ((3, 4), (3, 2), False, 0),
    ],
)
def test_it_is_the_softmax_over_the_lines_and_the_text(grid, key_grid, causal, texts):
    rng = np.random.default_rng(0)
    keys = key_grid or grid
    query, key, value = (rng.normal(size=(2, np.prod(g), 2, 3)) for g in (grid, keys, keys))
    text, extra = None, {}
    if texts:
        mask = np.arange(texts) < np.array([[1], [texts]])
        text = (*rng.normal(size=(2, 2, texts, 2, 3)), mask)
        extra = dict(zip(("extra_key", "extra_value", "extra_mask"), map(jnp.asarray, text), strict=True))
    run = jax.jit(lambda *x: axial_attention(*x, grid=grid, key_grid=key_grid, causal=causal, **extra))
    out = run(*(jnp.asarray(x, jnp.float32) for x in (query, key, value)))
    np.testing.assert_allclose(out, by_loops(query, key, value, grid, keys, causal, text), atol=1e-5)


def test_bfloat16_stays_and_has_finite_gradients():
    query, key, value = np.random.default_rng(0).normal(size=(3, 1, 6, 1, 4)).astype(jnp.bfloat16)

    def total(*x):
        out = axial_attention(*x, grid=(2, 3), causal=True)
        return out.astype(jnp.float32).sum(), out

    grads, out = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(query, key, value)
    assert out.dtype == jnp.bfloat16
    assert all(np.isfinite(grad).all() and np.any(grad != 0) for grad in grads)
