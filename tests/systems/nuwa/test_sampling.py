"""Sampling: cached raster order and wavefronts draw the tokens of a network that is run anew for each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from muse_jax.sampling.autoregressive import Sampling
from muse_jax.systems.nuwa.sampling import (
    ORDERS,
    Draw,
    NuwaSampling,
    _empty_cache,
    count_steps,
    draw_tokens,
    schedule_of,
)
from muse_jax.systems.nuwa.transformer import NuwaTransformer
from tests.systems.nuwa.test_transformer import random_params

WIDTHS = {"width": 8, "heads": 2, "mlp_dim": 8, "text_dim": 4, "code_dim": 4}
KEY = jax.random.key(5)


def make(grid, window=(3, 3, 3), depth=2, **fields):
    network = NuwaTransformer(13, grid, depth=depth, window=window, **fields, **WIDTHS)
    return network, random_params(network, 0.6)


def make_draw(network, frames, condition_grid=None, seed=0, share=0.8):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 13, (2, frames * network.frame_tokens))
    drawn = rng.random(tokens.shape) < share
    text, mask = rng.normal(size=(2, 3, 4)).astype(np.float32), np.array([[1, 1, 0], [1, 1, 1]], bool)
    more = () if condition_grid is None else (rng.integers(0, 13, (2, *condition_grid)),)
    cond, uncond = (text, mask, *more), (-text[:1], mask[1:], *more)
    return jax.tree.map(jnp.asarray, Draw(tokens, drawn, cond, uncond))


def draw_with(network, params, draw, **sampling):
    program = jax.jit(lambda draw, key: draw_tokens(network, params, draw, key, NuwaSampling(**sampling)))
    return np.asarray(program(draw, KEY))


def check_against_whole_passes(network, params, draw, tokens, scale, top_k):
    """Each drawn token is the one that the whole network's logits and the place's own noise give."""
    apply = jax.jit(lambda *inputs: network.apply({"params": params}, *inputs))
    cond = apply(tokens, *draw.cond)
    uncond = apply(tokens, *(jnp.broadcast_to(x, (2, *x.shape[1:])) for x in draw.uncond))
    logits = (1 + scale) * cond - scale * uncond
    sample = jax.jit(lambda key, logits: Sampling(1.0, top_k)(key, logits))
    for place in range(tokens.shape[1]):
        expected = sample(jax.random.fold_in(KEY, place), logits[:, place])
        given = np.where(draw.drawn[:, place], expected, draw.tokens[:, place])
        np.testing.assert_array_equal(tokens[:, place], given)


SHAPES = [  # grid, window or attention, grid of a condition
    ((3, 2, 4), (3, 3, 3), (1, 2, 3)),
    ((2, 3, 3), (3, 3, 3), None),
    ((3, 2, 4), "axial", (1, 2, 3)),
    ((1, 4, 3), (3, 3, 3), None),
    ((3, 3, 2), (1, 3, 3), (2, 3, 2)),
    ((3, 1, 4), (5, 3, 5), None),
    ((2, 3, 3), (3, 5, 5), (2, 1, 3)),  # as wide as the grid: full attention
    ((4, 2, 2), (3, 1, 3), None),
    ((2, 2, 3), "full", (2, 1, 2)),
]


@pytest.mark.parametrize(
    "grid, window, key_grid",
    [pytest.param(*shape, marks=[pytest.mark.slow] if i else []) for i, shape in enumerate(SHAPES)],
)
def test_raster_and_wavefront_draw_the_tokens_of_whole_passes(grid, window, key_grid):
    fields = {"attention": window} if isinstance(window, str) else {"window": window}
    network, params = make(grid, condition_depth=int(key_grid is not None), **fields)
    draw = make_draw(network, grid[0], key_grid)
    raster, wavefront = (
        draw_with(network, params, draw, order=order, guidance_scale=0.7, top_k=9)
        for order in ("raster", "wavefront")
    )
    np.testing.assert_array_equal(raster, wavefront)
    check_against_whole_passes(network, params, draw, raster, 0.7, 9)


_GRID = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
_EXTENTS = st.tuples(*[st.sampled_from([1, 3, 5])] * 3)
_ATTENTION = st.sampled_from(["nearby", "axial", "full"])


def check_shape(grid, window, attention, shift, share):
    """Of a random shape: the tokens of each order that the shift allows are those of whole passes."""
    network, params = make(grid, window, 1, attention=attention, shift=shift)
    draw = make_draw(network, grid[0], share=share)
    for order in ORDERS[shift]:
        tokens = draw_with(network, params, draw, order=order, guidance_scale=0.5, top_k=0)
        check_against_whole_passes(network, params, draw, tokens, 0.5, 0)


_SHAPES = given(
    _GRID, _EXTENTS, _ATTENTION, st.sampled_from(["3d", "raster"]), st.sampled_from([0.0, 0.5, 1.0])
)


@settings(max_examples=3, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@_SHAPES
def test_some_random_shapes_draw_the_tokens_of_whole_passes(grid, window, attention, shift, share):
    check_shape(grid, window, attention, shift, share)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, phases=[Phase.generate])
@_SHAPES
def test_many_random_shapes_draw_the_tokens_of_whole_passes(grid, window, attention, shift, share):
    check_shape(grid, window, attention, shift, share)


def test_the_published_shift_draws_the_tokens_of_whole_passes_in_raster_order():
    network, params = make((3, 2, 3), shift="raster", depth=1)
    draw = make_draw(network, 3)
    tokens = draw_with(network, params, draw, guidance_scale=0.0)
    check_against_whole_passes(network, params, draw, tokens, 0.0, 0)


def test_masked_decoding_keeps_given_tokens_and_masks_none():
    network, params = make((2, 2, 3), shift="none", depth=1)
    draw = make_draw(network, 2)
    tokens = draw_with(network, params, draw, num_steps=3)
    np.testing.assert_array_equal(tokens[~draw.drawn], draw.tokens[~draw.drawn])
    assert tokens.max() < 13 and (tokens != draw.tokens).any()


def test_the_steps_are_counted_before_the_loop():
    network = make((8, 8, 8), depth=1)[0]
    counts = [count_steps(network, NuwaSampling(order=order), 8) for order in ("", "wavefront", "raster")]
    assert counts == [50, 50, 512]
    axial, full = (make((8, 8, 8), depth=1, attention=name)[0] for name in ("axial", "full"))
    assert [count_steps(network, NuwaSampling(), 8) for network in (axial, full)] == [22, 512]
    masked = NuwaTransformer(13, (8, 8, 8), shift="none", **WIDTHS)
    assert count_steps(masked, NuwaSampling(num_steps=5), 8) == 5


@pytest.mark.parametrize(
    "shift, order", [("raster", "wavefront"), ("3d", "masked"), ("none", "raster"), ("none", "wavefront")]
)
def test_an_order_that_the_network_was_not_trained_for_is_refused(shift, order):
    network = NuwaTransformer(13, (2, 2, 2), shift=shift, **WIDTHS)
    with pytest.raises(ValueError, match=f"order is '{order}', but a network with shift='{shift}'"):
        count_steps(network, NuwaSampling(order=order), 2)


def test_the_cache_holds_the_steps_that_the_window_reaches_back():
    grid = (5, 4, 3)
    network = make(grid, depth=1)[0]
    for order, steps in (("raster", 4 * 3 + 3 + 1), ("wavefront", 7)):
        schedule = schedule_of(network, order, 5)
        cache = _empty_cache(network, 2, grid, schedule)
        assert cache.key.shape == (1, 2, 2, steps * schedule.shape[1], 4)
