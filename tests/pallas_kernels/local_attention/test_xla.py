import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.test_util import check_grads

from pallas_kernels.local_attention import reference, xla
from pallas_kernels.local_attention.arg_specs import CASES
from pallas_kernels.local_attention.geometry import Geometry, make_window
from pallas_kernels.local_attention.xla_tiling import choose_tiles


@st.composite
def problems(draw):
    """Draws a geometry of at most about 200 queries, whether there are extra keys, and a tile size."""
    axes = draw(st.integers(1, 3))
    odd = st.sampled_from([1, 3, 5, 9])
    grid, factors, windows = [], [], []
    for _ in range(axes):
        factor = draw(st.integers(1, 3))
        factors.append(factor)
        grid.append(factor * draw(st.integers(1, max(1, [40, 13, 5][axes - 1] // factor))))
        windows.append((draw(odd), draw(odd)))
    grid = tuple(grid)
    fine, coarse = zip(*windows, strict=True)
    coarse_grid = tuple(n // f for n, f in zip(grid, factors, strict=True))
    kind = draw(st.sampled_from(["plain", "causal", "coarse", "both"]))
    made = []
    if kind != "coarse":
        made.append(make_window("window", grid, fine, causal=kind == "causal"))
    if kind in ("coarse", "both"):
        made.append(make_window("coarse", grid, coarse, coarse_grid))
    return Geometry(grid, tuple(made)), draw(st.booleans()), draw(st.sampled_from([4, 9, 30]))


def _arrays(geometry, extra, batch=2, heads=2, dim=4, dtype=jnp.float32):
    rng = np.random.default_rng(0)

    def normal(tokens):
        return jnp.asarray(rng.standard_normal((batch, tokens, heads, dim)), dtype)

    query = normal(geometry.tokens)
    key, value = (tuple(normal(window.tokens) for window in geometry.windows) for _ in "kv")
    mask = jnp.asarray(
        np.arange(3) <= np.arange(batch)[:, None]
    )  # row 0 sees one extra key, row 1 two, and so on
    return query, key, value, (normal(3), normal(3), mask) if extra else None


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _output_and_grads(attend, arrays, geometry, tile=None):
    """Output, and gradients of query, keys, values and extra keys for some cotangent."""
    *arrays, extra = arrays
    mask = None if extra is None else extra[2]

    def function(query, key, value, extra):
        return attend(query, key, value, None if mask is None else (*extra, mask), geometry)

    with pytest.MonkeyPatch.context() as patch:
        if tile is not None:  # several tiles, and padding, in small grids
            patch.setattr(xla, "_MAX_TOKENS", tile)
        out, pull_back = jax.vjp(function, *arrays, () if extra is None else extra[:2])
        cotangent = jnp.cos(jnp.arange(out.size)).astype(jnp.bfloat16)  # the same numbers in either type
        return out, pull_back(cotangent.astype(out.dtype).reshape(out.shape))


def _check_against_reference(problem):
    geometry, extra, tile = problem
    arrays = _arrays(geometry, extra)
    ours = _output_and_grads(xla.attend, arrays, geometry, tile)
    theirs = _output_and_grads(reference.attend, arrays, geometry)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@hypothesis.settings(max_examples=6, deadline=None, derandomize=True)
@hypothesis.given(problems())
def test_values_and_gradients_equal_the_reference_s(problem):
    _check_against_reference(problem)


@pytest.mark.slow
@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(problems())
def test_values_and_gradients_equal_the_reference_s_for_many_random_problems(problem):
    _check_against_reference(problem)


def _superres():
    grid = (6, 9)
    windows = make_window("window", grid, (3, 5)), make_window("coarse", grid, (3, 3), (2, 3))
    return Geometry(grid, windows)


def test_gradients_agree_with_finite_differences():
    geometry = Geometry((5,), (make_window("window", (5,), (3,), causal=True),))
    query, key, value, (extra_key, extra_value, mask) = _arrays(geometry, True, batch=1, heads=1, dim=2)

    def function(query, key, value, extra_key, extra_value):
        return xla.attend(query, key, value, (extra_key, extra_value, mask), geometry)

    check_grads(function, (query, key, value, extra_key, extra_value), order=1, modes=["rev"], rtol=2e-2)


def test_bfloat16_is_kept_with_sums_in_float32():
    geometry = _superres()
    narrow = _arrays(geometry, True, dim=32, dtype=jnp.bfloat16)
    wide = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(jnp.float32), narrow)
    ours = _output_and_grads(xla.attend, narrow, geometry)
    exact = _output_and_grads(reference.attend, wide, geometry)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        assert a.dtype == jnp.bfloat16
        # Two roundings to 8 bits (the weights, the result) of sums whose terms are at most about one.
        np.testing.assert_allclose(np.float32(a), b, rtol=2**-7, atol=2**-6)


def test_large_scores_give_finite_results():
    geometry = _superres()
    query, key, value, extra = _arrays(geometry, True)
    out, grads = _output_and_grads(xla.attend, (100 * query, key, value, extra), geometry)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((out, grads)))
    largest = max(float(jnp.abs(v).max()) for v in (*value, extra[1]))
    assert float(jnp.abs(out).max()) <= largest * 1.001


def test_memory_is_far_below_that_of_all_pairs_and_grows_linearly_with_tokens():
    def temporary_bytes(side):
        geometry = Geometry((side, side), (make_window("window", (side, side), (9, 9)),))
        compiled = _output_and_grads.lower(xla.attend, _arrays(geometry, False, batch=1), geometry).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporary_bytes(32), temporary_bytes(64)
    all_scores = 2 * 4 * 64**4  # two heads of float32
    assert large < 4.4 * small
    assert large < all_scores / 20


@pytest.mark.parametrize("grid", [(1,), (7,), (60, 60), (61, 5), (10, 20, 20), (64, 64)])
def test_tiles_cover_the_grid_with_little_overhang(grid):
    geometry = Geometry(grid, (make_window("window", grid, (9,) * len(grid)),))
    tiles = choose_tiles(geometry, extra=0, max_tokens=256)
    covered = [size * count for size, count in zip(tiles.sizes, tiles.counts, strict=True)]
    assert all(0 <= n - places < count for n, places, count in zip(covered, grid, tiles.counts, strict=True))
    assert math.prod(tiles.sizes) <= 256
    assert math.prod(covered) <= 1.1 * math.prod(grid)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_real_shapes_trace_forward_and_backward(case):
    query, keys, values, extra = arrays = case.arguments(batch=2, dtype=jnp.bfloat16)
    out, grads = jax.eval_shape(lambda arrays: _output_and_grads(xla.attend, arrays, case.geometry), arrays)
    assert (out.shape, out.dtype) == (query.shape, query.dtype)
    assert [g.shape for g in jax.tree.leaves(grads[1:3])] == [k.shape for k in (*keys, *values)]
