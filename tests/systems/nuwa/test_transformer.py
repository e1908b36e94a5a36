"""NUWA's network: what its logits depend on, conditions of other sizes, and its size in the paper."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.nn.clip import CLIPText
from muse_jax.nn.shapes import abstract_params, parameter_shapes
from muse_jax.systems.nuwa.transformer import NuwaTransformer

SIZES = {"vocab_size": 11, "grid": (2, 3, 3), "width": 8, "depth": 2, "heads": 2, "mlp_dim": 8}
SMALL = {**SIZES, "text_dim": 5, "code_dim": 4, "condition_depth": 1}


def random_params(module, scale=0.5):
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(module)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, scale, leaf.shape), jnp.float32), shapes)


def inputs():
    rng = np.random.default_rng(1)
    text = rng.normal(size=(1, 4, 5)).astype(np.float32)
    return rng.integers(0, 11, (1, 18)), text, np.arange(4)[None] < 3, rng.integers(0, 11, (1, 1, 2, 3))


PROBED = [("raster", "full"), ("3d", "nearby"), ("3d", "axial"), ("none", "nearby")]
SLOW = [("raster", "nearby"), ("raster", "axial"), ("3d", "full"), ("none", "axial"), ("none", "full")]


@pytest.fixture(scope="module", params=[*PROBED, *(pytest.param(x, marks=pytest.mark.slow) for x in SLOW)])
def probed(request):
    """The shift, and the logits (18, 11) of tokens, text, mask and condition."""
    shift, attention = request.param
    depth = 3 if attention == "axial" else 2  # lines reach every place in three steps
    network = NuwaTransformer(**{**SMALL, "depth": depth}, shift=shift, attention=attention)
    params = random_params(network)
    apply = jax.jit(lambda *inputs: network.apply({"params": params}, *inputs)[0])
    return shift, apply


def test_no_logit_depends_on_its_own_token_or_a_later_one(probed):
    shift, apply = probed
    tokens, *rest = inputs()
    logits = apply(tokens, *rest)
    seen = np.zeros((18, 18), bool)
    for n in range(18):
        changed = tokens.copy()
        changed[0, n] = (changed[0, n] + 1) % 11
        seen[:, n] = np.abs(apply(changed, *rest) - logits).max(axis=1) > 0
    if shift == "none":
        assert seen.all()
    else:
        assert not np.triu(seen).any()
        assert seen[np.arange(1, 18), np.arange(17)].sum() >= 12  # most read the one before
        assert seen[17, :9].any()  # and the last one the frame before


def test_text_and_condition_matter_and_masked_text_does_not(probed):
    _, apply = probed
    tokens, text, mask, condition = inputs()
    logits = apply(tokens, text, mask, condition)
    masked = np.where(mask[..., None], text, 1e3).astype(np.float32)
    np.testing.assert_array_equal(apply(tokens, masked, mask, condition), logits)
    assert (np.abs(apply(tokens, -text, mask, condition) - logits).max(axis=1) > 1e-3).all()
    other = apply(tokens, text, mask, (condition + 1) % 11)
    assert (np.abs(other - logits).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("shift", ["raster", "3d"])
@pytest.mark.parametrize("extent, unseen", [(3, [(1, 1)]), (5, [])])
def test_which_tokens_of_the_previous_frame_reach_a_place(shift, extent, unseen):
    sizes = {**SMALL, "grid": (2, 6, 6), "depth": 4, "condition_depth": 0}
    network = NuwaTransformer(**sizes, shift=shift, window=(3, extent, extent))
    apply = jax.jit(lambda *inputs: network.apply({"params": random_params(network)}, *inputs))
    row = column = 3
    offsets = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    tokens = np.zeros((10, 72), int)
    for number, (down, right) in enumerate(offsets):
        tokens[number, 6 * (row + down) + column + right] = 1
    _, text, mask, _ = inputs()
    logits = apply(tokens, np.repeat(text, 10, axis=0), np.repeat(mask, 10, axis=0))[:, 36 + 6 * row + column]
    change = np.abs(logits[:9] - logits[9]).max(axis=1)
    assert [offset for offset, value in zip(offsets, change, strict=True) if value == 0] == unseen


@pytest.mark.parametrize(
    "attention", ["nearby", *(pytest.param(x, marks=pytest.mark.slow) for x in ("axial", "full"))]
)
def test_a_video_of_fewer_frames_is_the_beginning_of_a_longer_one(attention):
    network = NuwaTransformer(**{**SMALL, "condition_depth": 0, "depth": 1}, attention=attention)
    params = {"params": random_params(network)}
    tokens, text, mask, _ = inputs()
    short, long = (jax.jit(network.apply)(params, tokens[:, :n], text, mask) for n in (9, 18))
    np.testing.assert_allclose(long[:, :9], short, atol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({0: np.zeros((1, 27), int)}, "27 tokens are not 1 to 2 frames of 3x3"),
        ({0: np.zeros((1, 10), int)}, "10 tokens are not 1 to 2 frames"),
        ({1: np.zeros((1, 4, 6))}, "the network reads .batch, text tokens, 5."),
        ({3: np.zeros((1, 3, 3, 3), int)}, "condition has shape .1, 3, 3, 3.,.* at most 2x3x3"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, message):
    network = NuwaTransformer(**SMALL)
    arguments = [change.get(i, value) for i, value in enumerate(inputs())]
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(network.init, jax.random.key(0), *arguments)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shift": "2d"}, "shift must be one of raster, 3d, none"),
        ({"attention": "sparse"}, "attention must be one of nearby, axial, full"),
        ({"window": (3, 3)}, "must have three axes"),
    ],
)
def test_fields_that_do_not_fit_are_refused(change, message):
    network = NuwaTransformer(**{**SMALL, **change})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network.init, jax.random.key(0), *inputs())


def _count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_the_paper_s_size_has_870_million_parameters_with_clip_s_text_encoder():
    network = parameter_shapes(NuwaTransformer(12288, shift="raster"))
    assert _count(network["decoder"]) == 24 * 20 * (1280**2 + 1280)
    clip = CLIPText(49408, 512, 12, 8, 2048, 77, 512)
    text = abstract_params(clip, jnp.zeros((1, 77), jnp.int32), jnp.zeros(1, jnp.int32))
    total = _count(network) + _count(text) - _count(text["projection"])
    assert round(total / 1e6, 1) == 870.2
