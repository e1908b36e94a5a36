"""VQGAN of taming-transformers: shapes, ranges, and the names of published tensors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from muse_jax.interop.name_table import StrictTensors
from muse_jax.nn.shapes import parameter_shapes
from muse_jax.tokenizers import TamingVQGAN
from muse_jax.tokenizers.base import Tokenizer
from muse_jax.tokenizers.published import LAYOUTS, _foreign_name, read_vqgan

SMALL = TamingVQGAN((8, 16), 1, (1,), True, 4, 32, 6, norm_groups=4)


def tensors_of(module, layout):
    """Random tensors with the names and shapes of a published file."""
    rng, tensors = np.random.default_rng(0), {}
    for path, leaf in traverse_util.flatten_dict(parameter_shapes(module), sep="/").items():
        name = _foreign_name(path, LAYOUTS[layout], len(module.channels))
        assert name not in tensors
        tensors[name] = rng.normal(size=leaf.shape).astype(np.float32)
        if path.endswith("kernel"):
            tensors[name] = tensors[name].transpose(3, 2, 0, 1)
    return tensors


def test_encodes_and_decodes_a_range():
    assert isinstance(SMALL, Tokenizer)
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / leaf.size**0.25  # noqa: E731
    params = jax.tree.map(draw, parameter_shapes(SMALL))
    images = jax.random.uniform(jax.random.key(1), (2, 8, 4, 3), minval=-1)
    ids = jax.jit(SMALL.encode)(params, images)
    assert ids.shape == (2, 4, 2) == (2, *SMALL.latent_spec((8, 4, 3)).shape)
    pixels = jax.jit(SMALL.decode)(params, ids)
    # A network that takes [0, 1] sees the same numbers for images that are twice as bright, less one.
    dark = SMALL.clone(black=0.0)
    np.testing.assert_array_equal(jax.jit(dark.encode)(params, images * 2 - 1), ids)
    np.testing.assert_allclose(jax.jit(dark.decode)(params, ids), pixels * 2 - 1, atol=1e-5)
    reconstructed, quantized = jax.jit(SMALL.apply)({"params": params}, images)
    np.testing.assert_array_equal(quantized.ids, ids)
    np.testing.assert_allclose(reconstructed, pixels, atol=1e-5)
    with pytest.raises(ValueError, match="multiples of 2"):
        SMALL.encode(params, jnp.zeros((1, 3, 4, 3)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sizes_are_read_from_the_tensors(layout):
    tensors = StrictTensors(tensors_of(SMALL, layout), "the file")
    module, params = read_vqgan(tensors, layout, norm_groups=4)
    tensors.refuse_surplus()
    assert module == SMALL
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == sum(tensors.read(name).size for name in tensors)


def test_names_of_taming():
    names = tensors_of(SMALL, "taming")
    for name in (
        "encoder.down.0.block.0.norm1.weight",
        "encoder.down.1.block.0.nin_shortcut.bias",
        "encoder.down.0.downsample.conv.weight",
        "encoder.down.1.attn.0.proj_out.weight",
        "encoder.mid.attn_1.q.weight",
        "decoder.up.1.upsample.conv.weight",
        "decoder.up.0.block.1.conv2.weight",
        "decoder.norm_out.weight",
        "post_quant_conv.weight",
    ):
        assert name in names


def test_wrong_files_are_refused():
    tensors = tensors_of(SMALL, "taming")
    wrong = tensors | {"encoder.mid.attn_1.q.weight": np.zeros((16, 15, 1, 1), np.float32)}
    with pytest.raises(ValueError, match=r"'encoder.mid.attn_1.q.weight' of f has shape \(16, 15, 1, 1\)"):
        read_vqgan(StrictTensors(wrong, "f"), "taming", norm_groups=4)
    missing = {name: value for name, value in tensors.items() if name != "decoder.conv_out.bias"}
    with pytest.raises(ValueError, match=r"f has no tensor 'decoder.conv_out.bias'"):
        read_vqgan(StrictTensors(missing, "f"), "taming", norm_groups=4)
    with pytest.raises(ValueError, match="has no tensor 'encoder.conv_blocks.0"):
        read_vqgan(StrictTensors(tensors, "f"), "llamagen")
    surplus = StrictTensors({"a": np.zeros(1), "loss.b": np.zeros(1)}, "f")
    with pytest.raises(ValueError, match="f has the tensor 'a', which"):
        surplus.refuse_surplus(["loss."])
