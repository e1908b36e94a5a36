"""Schedules of wavefronts against the windows that they must respect, and the loop that follows them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muse_jax.sampling.autoregressive import Sampling
from muse_jax.sampling.wavefront import decode_places, raster_schedule, wavefront_schedule

_WINDOW = st.tuples(*[st.sampled_from([1, 3, 5, 99])] * 3)


@settings(deadline=None)
@given(st.tuples(*[st.integers(1, 4)] * 3), st.lists(_WINDOW, min_size=1, max_size=3))
def test_all_that_a_place_depends_on_comes_in_an_earlier_step(grid, windows):
    schedule = wavefront_schedule(grid, windows)
    places = list(itertools.product(*map(range, grid)))
    step = {n: t for t, row in enumerate(schedule) for n in row if n < len(places)}
    assert len(step) == len(places) and (np.bincount(schedule.ravel())[: len(places)] == 1).all()
    for n, place in enumerate(places):
        for m, other in enumerate(places[:n]):
            offset = np.abs(np.subtract(place, other))
            near = any(all(offset <= np.array(window) // 2) for window in windows)
            if near or sorted(offset) == [0, 0, 1]:  # in the window, or an input of the 3D shift
                assert step[m] < step[n]


LINES = ((9, 1, 1), (1, 9, 1), (1, 1, 9))


@pytest.mark.parametrize(
    "grid, windows, steps",
    [
        ((10, 21, 21), [(3, 3, 3)], 97),
        ((4, 32, 32), [(3, 3, 3)], 106),
        ((8, 8, 8), [(3, 3, 3)], 50),
        ((1, 8, 8), [(3, 3, 3)], 22),
        ((3, 4, 5), LINES, 10),
        ((3, 4, 5), [(9, 9, 9)], 60),
    ],
)
def test_the_number_of_steps_is_that_of_the_formula(grid, windows, steps):
    assert len(wavefront_schedule(grid, windows)) == steps


def _counting(tokens, places, cache):
    """Logits that make each token the sum of those to its left and above it plus 1, modulo 7."""
    padded = jnp.pad(tokens.reshape(-1, 1, 3, 4), ((0, 0), (0, 0), (1, 0), (1, 0)))
    total = (padded[:, :, 1:, :-1] + padded[:, :, :-1, 1:]).reshape(-1, 12) + 1
    return jax.nn.one_hot(total[:, jnp.minimum(places, 11)] % 7, 7) * 1e9, cache + (places < 12).sum()


@pytest.mark.parametrize("schedule", [raster_schedule((1, 3, 4)), wavefront_schedule((1, 3, 4), [(3, 3, 3)])])
def test_drawn_tokens_follow_from_earlier_ones_and_given_ones_stay(schedule):
    rng = np.random.default_rng(0)
    tokens, drawn = rng.integers(0, 7, (2, 12)), rng.random((2, 12)) < 0.7
    steps = []
    out = decode_places(
        _counting,
        jnp.int32(0),
        jnp.asarray(tokens),
        jnp.asarray(drawn),
        jax.random.key(0),
        schedule=schedule,
        sampling=Sampling(0.0),
        on_step=steps.append,
    )
    jax.effects_barrier()
    assert [step.step for step in steps] == list(range(1, len(schedule) + 1)) and steps[-1].masked == 0
    assert steps[0].masked == drawn.sum() - drawn[:, 0].sum()
    expected = tokens.reshape(2, 3, 4).copy()
    for b, i, j in np.ndindex(2, 3, 4):
        if drawn.reshape(2, 3, 4)[b, i, j]:
            left, above = j and expected[b, i, j - 1], i and expected[b, i - 1, j]
            expected[b, i, j] = (left + above + 1) % 7
    np.testing.assert_array_equal(out, expected.reshape(2, 12))


def test_a_place_draws_the_same_noise_in_any_order():
    def uniform(tokens, places, cache):
        return jnp.zeros((2, len(places), 50)), cache

    draw = [
        decode_places(
            uniform,
            (),
            jnp.zeros((2, 24), jnp.int32),
            jnp.ones((2, 24), bool),
            jax.random.key(3),
            schedule=schedule,
            sampling=Sampling(),
        )
        for schedule in (raster_schedule((2, 3, 4)), wavefront_schedule((2, 3, 4), [(3, 3, 3)]))
    ]
    np.testing.assert_array_equal(*draw)
    assert len(np.unique(draw[0])) > 20 and (draw[0][0] != draw[0][1]).any()


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(batch, n\), given \(1, 4\) and \(1, 3\)"):
        decode_places(
            _counting,
            (),
            jnp.zeros((1, 4), jnp.int32),
            jnp.ones((1, 3), bool),
            jax.random.key(0),
            schedule=raster_schedule((1, 2, 2)),
            sampling=Sampling(),
        )
