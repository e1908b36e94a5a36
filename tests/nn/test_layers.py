"""The shared transformer parts against formulas and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.nn.layers import Attention, Dense, RMSNorm, attend, gelu, project
from muse_jax.systems.muse.superres_transformer import block_layout, grid_layout

KEY = jax.random.key(0)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def softmax_attention(query, key, value, allowed):
    """Position by position, in float64. `allowed[q]` lists the keys that query q sees."""
    out = np.zeros(query.shape)
    for q, keys in enumerate(allowed):
        logits = key[keys] @ query[q] / np.sqrt(query.shape[-1])
        weights = np.exp(logits - logits.max()) if len(keys) else logits
        out[q] = (weights / weights.sum()) @ value[keys] if len(keys) else 0
    return out


def test_attend_is_masked_softmax_attention_and_zero_without_keys():
    query, key, value = normal(3, 2, 4, 8), normal(3, 2, 5, 8, seed=1), normal(3, 2, 5, 8, seed=2)
    mask = jnp.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
    out = attend(query, key, value, mask)
    for b in range(3):
        keys = list(np.flatnonzero(mask[b]))
        for h in range(2):
            arrays = (np.asarray(a[b, h], np.float64) for a in (query, key, value))
            np.testing.assert_allclose(out[b, h], softmax_attention(*arrays, [keys] * 4), atol=1e-5)


def test_attend_has_the_gradient_of_plain_softmax():
    def plain(query, key, value):
        weights = jax.nn.softmax(jnp.einsum("bhqd,bhkd->bhqk", query, key) / jnp.sqrt(8))
        return jnp.sum(jnp.sin(jnp.einsum("bhqk,bhkd->bhqd", weights, value)))

    arrays = normal(1, 2, 4, 8), normal(1, 2, 5, 8, seed=1), normal(1, 2, 5, 8, seed=2)
    found = jax.grad(lambda *a: jnp.sum(jnp.sin(attend(*a))), (0, 1, 2))(*arrays)
    for got, want in zip(found, jax.grad(plain, (0, 1, 2))(*arrays), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_attend_without_keys_has_a_finite_gradient():
    arrays = normal(1, 1, 2, 4), normal(1, 1, 3, 4), normal(1, 1, 3, 4)
    grads = jax.grad(lambda *a: jnp.sum(attend(*a, jnp.zeros((1, 3), bool))), (0, 1, 2))(*arrays)
    assert all(jnp.all(grad == 0) for grad in grads)


def test_gelu_and_its_gradient_are_jax_own():
    x = jnp.linspace(-6, 6, 101)
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=True), atol=1e-6)
    want = jax.vmap(jax.grad(lambda x: jax.nn.gelu(x, approximate=True)))(x)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), want, atol=1e-5)


@pytest.mark.parametrize("inputs, outputs", [(3, (7,)), (7, (3,)), (5, (3, 2, 4)), (9, (2, 1, 3))])
def test_project_is_a_matrix_product_with_its_gradient(inputs, outputs):
    def product(x, kernel):
        return (x @ kernel.reshape(inputs, -1)).reshape(*x.shape[:-1], *outputs)

    x, kernel = normal(2, 5, inputs), normal(inputs, *outputs, seed=1)
    np.testing.assert_allclose(project(x, kernel), product(x, kernel), atol=1e-5)

    def gradients(function):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(function(*a))), (0, 1))(x, kernel)

    for got, expected in zip(gradients(project), gradients(product), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_dense_starts_with_the_variance_of_its_inputs():
    dense = Dense((4, 32), ("embed", "heads", "kv"), scale=0.5)
    kernel = dense.init(KEY, normal(1, 256))["params"]["kernel"].value
    assert kernel.shape == (256, 4, 32) and float(kernel.std()) == pytest.approx(0.5 / 16, rel=0.02)


def test_rms_norm_is_its_formula_and_stays_in_float32_inside():
    x = normal(2, 3, 16) * 300
    out = RMSNorm(jnp.bfloat16).apply({"params": {"scale": jnp.full(16, 2.0)}}, x)
    want = 2 * x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), want, rtol=1e-2, atol=1e-2)


def neighbours(grid, block, kind):
    """For every position, the positions that it attends to, from coordinates."""
    places = [(r, c) for r in range(grid[0]) for c in range(grid[1])]
    key = (lambda x: x // block) if kind is block_layout else (lambda x: x % block)
    group = [(key(r), key(c)) for r, c in places]
    return [[i for i, other in enumerate(group) if other == mine] for mine in group]


@pytest.mark.parametrize("kind", [block_layout, grid_layout])
@pytest.mark.parametrize("grid, block", [((8, 8), 4), ((4, 6), 2)])
def test_blocked_and_grid_attention_are_masked_dense_attention(kind, grid, block):
    n = grid[0] * grid[1]
    split, join = kind(grid, block)
    query, key, value = (normal(2, n, 8, seed=seed) for seed in range(3))
    np.testing.assert_array_equal(join(split(query)), query)
    out = join(attend(*(split(a)[:, None] for a in (query, key, value)))[:, 0])
    for b in range(2):
        arrays = (np.asarray(a[b], np.float64) for a in (query, key, value))
        np.testing.assert_allclose(
            out[b], softmax_attention(*arrays, neighbours(grid, block, kind)), atol=1e-5
        )


def test_a_blocked_and_a_grid_layer_connect_all_positions():
    near, far = (np.zeros((48, 48), bool) for _ in range(2))
    for reach, kind in ((near, block_layout), (far, grid_layout)):
        for position, others in enumerate(neighbours((4, 12), 2, kind)):
            reach[position, others] = True
    assert (near.astype(int) @ far.astype(int)).all()


def test_self_attention_permutes_with_its_tokens():
    attention = Attention(heads=2)
    x, order = normal(2, 6, 8), np.array([3, 1, 5, 0, 2, 4])
    params = attention.init(KEY, x)
    np.testing.assert_allclose(
        attention.apply(params, x[:, order]), attention.apply(params, x)[:, order], atol=1e-5
    )
