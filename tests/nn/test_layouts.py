"""Layouts of self-attention against masks made from coordinates."""

import jax
import numpy as np
import pytest

from muse_jax.nn.attention import attend
from muse_jax.nn.layouts import block_layout, grid_layout
from tests.nn.test_attention import softmax_attention


def neighbours(grid, block, kind):
    """Positions that each position attends to, from coordinates."""
    key = (lambda x: x // block) if kind is block_layout else (lambda x: x % block)
    group = [tuple(key(x) for x in place) for place in np.ndindex(*grid)]
    return [[i for i, other in enumerate(group) if other == mine] for mine in group]


@pytest.mark.parametrize("kind", [block_layout, grid_layout])
@pytest.mark.parametrize("grid, block", [((8, 8), 4), ((4, 6), 2), ((12,), 3), ((4, 2, 6), 2)])
def test_blocked_and_grid_attention_are_masked_dense_attention(kind, grid, block):
    n = int(np.prod(grid))
    split, join = kind(grid, block)
    query, key, value = (jax.random.normal(jax.random.key(seed), (2, n, 8)) for seed in range(3))
    np.testing.assert_array_equal(join(split(query)), query)
    out = join(attend(*(split(a)[:, None] for a in (query, key, value)))[:, 0])
    for b in range(2):
        arrays = (np.asarray(a[b], np.float64) for a in (query, key, value))
        np.testing.assert_allclose(
            out[b], softmax_attention(*arrays, neighbours(grid, block, kind)), atol=1e-5
        )


@pytest.mark.parametrize("grid", [(4, 12), (4, 2, 6)])
def test_a_blocked_and_a_grid_layer_connect_all_positions(grid):
    near, far = (np.zeros((48, 48), bool) for _ in range(2))
    for reach, kind in ((near, block_layout), (far, grid_layout)):
        for position, others in enumerate(neighbours(grid, 2, kind)):
            reach[position, others] = True
    assert (near.astype(int) @ far.astype(int)).all()
