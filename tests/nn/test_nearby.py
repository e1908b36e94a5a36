"""Tables of nearby attention against explicit loops, and attention of places against that of whole grids."""

import functools
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
    attend_windows,
    input_places,
    make_windows,
    neighbors,
    sees,
)

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


BOX, LINES = ((3, 5, 3),), ((3, 1, 1), (1, 5, 1), (1, 1, 7))


def _visible(place, key, windows):
    """Whether a place sees a key of a grid of the same size, by the definition of a box."""
    return any(all(abs(a - c) <= e // 2 for a, c, e in zip(key, place, box, strict=True)) for box in windows)


def test_axial_windows_are_the_lines_through_a_place_and_full_ones_all():
    places = list(itertools.product(*map(range, GRID)))
    for place, key in itertools.product(places, places):
        apart = np.count_nonzero(np.subtract(place, key))
        assert _visible(place, key, make_windows("axial", GRID, (3, 3, 3))) == (apart <= 1)
        assert _visible(place, key, make_windows("full", GRID, (3, 3, 3)))
    assert make_windows("nearby", GRID, [3, 5, 1]) == ((3, 5, 1),)


@pytest.mark.parametrize(
    "keys, windows, earlier",
    [(GRID, BOX, True), ((1, 2, 5), ((3, 3, 1),), False), (GRID, LINES, True), ((1, 2, 5), LINES, False)],
)
def test_neighbors_are_the_keys_in_the_windows_by_loops(keys, windows, earlier):
    index, seen = neighbors(GRID, windows, keys, earlier)
    for n, place in enumerate(itertools.product(*map(range, GRID))):
        centre = [math.floor(i * k / g) for i, k, g in zip(place, keys, GRID, strict=True)]
        expected = [
            m
            for m, key in enumerate(itertools.product(*map(range, keys)))
            if _visible(centre, key, windows) and not (earlier and m >= n)
        ]
        assert index[n][seen[n]].tolist() == expected


def _normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("attention", ["nearby", "axial", "full"])
def test_places_attend_to_the_slots_that_they_see_as_the_whole_grid_does(attention):
    windows = make_windows(attention, GRID, (3, 3, 3))
    query, key, value = (_normal(seed, 2, 24, 2, 4) for seed in range(3))
    attend = functools.partial(attend_windows, grid=GRID, windows=windows, causal=True)
    whole = jax.jit(attend)(query, key, value)
    places = jnp.array([0, 5, 17, 23])
    slots = np.random.default_rng(0).permutation(26) - 1  # every place, an empty slot, and one past the grid
    seen = sees(places, jnp.asarray(slots), GRID, windows)
    held = np.clip(slots, 0, 23)
    earlier = tuple(x[:, held].swapaxes(1, 2) for x in (key, value))
    own = (key[:, places], value[:, places])
    out = jax.jit(attend_places)(query[:, places], own, earlier, seen)
    np.testing.assert_allclose(out, whole[:, places], atol=1e-5)


@pytest.mark.parametrize(
    "attention, key_grid", [("nearby", ()), ("nearby", (1, 2, 5)), ("axial", (1, 2, 3)), ("full", (1, 2, 3))]
)
def test_places_attend_to_a_context_as_the_whole_grid_does(attention, key_grid):
    windows = make_windows(attention, GRID, (3, 3, 3))
    query, *text = (_normal(seed, 2, size, 2, 4) for seed, size in enumerate((24, 6, 6)))
    mask = jnp.arange(6) < jnp.array([[2], [6]])
    states = tuple(_normal(seed, 2, math.prod(key_grid), 2, 4) for seed in (3, 4)) if key_grid else None
    context = Context(tuple(text), mask, states, key_grid)
    whole = jax.jit(attend_to_context, static_argnums=(2, 3))(query, context, GRID, windows)
    places = jnp.array([0, 5, 17, 23])
    tables = [t[places] for t in neighbors(GRID, windows, key_grid, False)] if key_grid else [None, None]
    out = jax.jit(attend_places_to_context)(query[:, places], context, *tables)
    np.testing.assert_allclose(out, whole[:, places], atol=1e-5)
