"""Windows written out by hand: a query of zeros attends equally to all keys that it sees."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.local_attention.geometry import Geometry, make_window
from pallas_kernels.local_attention.reference import attend


def _seen(grid, *windows, extra_mask=None):
    """Indices of the keys that each query sees, through all windows and then the extra keys."""
    geometry = Geometry(grid, tuple(make_window("window", grid, *window) for window in windows))
    sizes = [window.tokens for window in geometry.windows]
    extra = 0 if extra_mask is None else len(extra_mask)
    total = sum(sizes) + extra
    one_hot = jnp.eye(total)[None, :, None]  # each value is the one-hot code of its position
    ends = np.cumsum([0, *sizes, extra])
    *values, extra_value = (one_hot[:, a:b] for a, b in itertools.pairwise(ends))
    query = jnp.zeros((1, geometry.tokens, 1, total))
    extra_arrays = None if extra_mask is None else (extra_value, extra_value, jnp.array([extra_mask]))
    weights = np.asarray(attend(query, tuple(values), tuple(values), extra_arrays, geometry))[0, :, 0]
    for row in weights:
        np.testing.assert_allclose(row[row > 0], 1 / (row > 0).sum(), rtol=1e-6)
    return [set(np.flatnonzero(row).tolist()) for row in weights]


def test_a_window_is_cut_at_the_ends_of_a_line():
    assert _seen((4,), ((3,),)) == [{0, 1}, {0, 1, 2}, {1, 2, 3}, {2, 3}]


def test_a_window_on_a_plane_has_a_height_and_a_width():
    seen = _seen((2, 4), ((3, 1),))
    assert seen == [{0, 4}, {1, 5}, {2, 6}, {3, 7}] * 2


def test_a_causal_window_keeps_the_query_itself_and_earlier_positions():
    seen = _seen((2, 3), ((3, 3), None, True))
    assert seen == [{0}, {0, 1}, {1, 2}, {0, 1, 3}, {0, 1, 2, 3, 4}, {1, 2, 4, 5}]


def test_a_window_on_a_coarser_key_grid_is_centred_on_the_divided_position():
    assert _seen((6,), ((1,), (3,))) == [{0}, {0}, {1}, {1}, {2}, {2}]
    assert _seen((6,), ((3,), (3,))) == [{0, 1}, {0, 1}, {0, 1, 2}, {0, 1, 2}, {1, 2}, {1, 2}]


def test_two_windows_and_visible_extra_keys_share_one_softmax():
    seen = _seen((2,), ((1,),), ((1,), (1,)), extra_mask=[True, False, True])
    assert seen == [{0, 2, 3, 5}, {1, 2, 3, 5}]


def test_weights_are_the_softmax_of_scaled_products():
    query, key, value = jax.random.normal(jax.random.key(0), (3, 1, 3, 2, 4))
    geometry = Geometry((3,), (make_window("window", (3,), (3,)),))
    out = attend(query, (key,), (value,), None, geometry)
    scores = np.einsum("hd,khd->hk", query[0, 0], key[0, :2]) / 2.0
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(out[0, 0], np.einsum("hk,khd->hd", weights, value[0, :2]), rtol=1e-5)
