"""Tables of nearby attention against explicit loops, and attention of places against that of whole grids."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.nn.nearby import (
    Context,
    attend_places,
    attend_places_to_context,
    attend_to_context,
    input_places,
    neighbors,
    sees,
)
from pallas_kernels.local_attention import local_attention

GRID = (2, 3, 4)


@pytest.mark.parametrize("shift", ["raster", "3d", "none"])
def test_a_place_reads_the_tokens_before_it(shift):
    places = list(itertools.product(*map(range, GRID)))
    for n, place in enumerate(places):
        if shift == "none":
            expected = [n]
        elif shift == "raster":
            expected = [n - 1]
        else:
            before = [tuple(np.subtract(place, step)) for step in np.eye(3, dtype=int)]
            expected = [places.index(other) if min(other) >= 0 else -1 for other in before]
        assert input_places(GRID, shift)[n].tolist() == expected


@pytest.mark.parametrize("keys, window, earlier", [(GRID, (3, 5, 3), True), ((1, 2, 5), (3, 3, 1), False)])
def test_neighbors_are_the_keys_in_the_window_by_loops(keys, window, earlier):
    index, seen = neighbors(GRID, window, keys, earlier)
    for n, place in enumerate(itertools.product(*map(range, GRID))):
        centre = [math.floor(i * k / g) for i, k, g in zip(place, keys, GRID, strict=True)]
        expected = [
            m
            for m, key in enumerate(itertools.product(*map(range, keys)))
            if all(abs(a - c) <= e // 2 for a, c, e in zip(key, centre, window, strict=True))
            and not (earlier and m >= n)
        ]
        assert index[n][seen[n]].tolist() == expected


def _normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_places_attend_to_the_slots_that_they_see_as_the_whole_grid_does():
    query, key, value = (_normal(seed, 2, 24, 2, 4) for seed in range(3))
    whole = local_attention(query, key, value, grid=GRID, window=(3, 3, 3), causal=True)
    places = jnp.array([0, 5, 17, 23])
    slots = np.random.default_rng(0).permutation(26) - 1  # every place, an empty slot, and one past the grid
    seen = sees(places, jnp.asarray(slots), GRID, (3, 3, 3))
    held = np.clip(slots, 0, 23)
    earlier = tuple(x[:, held].swapaxes(1, 2) for x in (key, value))
    out = attend_places(query[:, places], (key[:, places], value[:, places]), earlier, seen)
    np.testing.assert_allclose(out, whole[:, places], atol=1e-5)


@pytest.mark.parametrize("key_grid", [(), (1, 2, 5)])
def test_places_attend_to_a_context_as_the_whole_grid_does(key_grid):
    query, *text = (_normal(seed, 2, size, 2, 4) for seed, size in enumerate((24, 6, 6)))
    mask = jnp.arange(6) < jnp.array([[2], [6]])
    states = tuple(_normal(seed, 2, 10, 2, 4) for seed in (3, 4)) if key_grid else None
    context = Context(tuple(text), mask, states, key_grid)
    whole = attend_to_context(query, context, GRID, (3, 3, 3))
    places = jnp.array([0, 5, 17, 23])
    tables = [t[places] for t in neighbors(GRID, (3, 3, 3), key_grid, False)] if key_grid else [None, None]
    out = attend_places_to_context(query[:, places], context, *tables)
    np.testing.assert_allclose(out, whole[:, places], atol=1e-5)
