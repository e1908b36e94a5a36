"""The paper-size configs: their parameter counts, and that they are configs of the trainer."""

import importlib
import itertools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from muse_jax.systems.muse.masked_transformer import MaskedTransformer
from muse_jax.systems.muse.superres_transformer import SuperResTransformer
from muse_jax.tokenizers import VQGAN
from muse_jax.training import validate_config

NAMES = ("base_632m", "base_3b", "superres_268m", "vqgan_f16_256", "vqgan_f8_512", "vqgan_f8_512_decoder")


def load(name):
    return importlib.import_module(f"configs.muse.{name}").get_config()


def abstract_params(module, *arguments):
    return nn.unbox(jax.eval_shape(module.init, jax.random.key(0), *arguments))["params"]


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def tokens(grid):
    return jnp.zeros((1, grid[0] * grid[1]), jnp.int32)


def text(model):
    return jnp.zeros((1, 4, model["text_dim"])), jnp.ones((1, 4), bool)


@pytest.mark.parametrize("name", NAMES)
def test_the_trainer_takes_the_config(name):
    config = load(name)
    assert validate_config(config).model.to_dict() == config.model.to_dict()


# 3B: width 2048, 48 layers and MLP 8192 come to 3.25B with the text projection and the embeddings.
@pytest.mark.parametrize("name, size, tolerance", [("base_632m", 632e6, 0.03), ("base_3b", 3.25e9, 0.01)])
def test_base_sizes(name, size, tolerance):
    model = load(name).model.to_dict()
    params = abstract_params(MaskedTransformer(**model), tokens(model["grid"]), *text(model))
    assert count(params) == pytest.approx(size, rel=tolerance)
    width, depth, mlp, vocab = (model[key] for key in ("width", "depth", "mlp_dim", "vocab_size"))
    matrices = (
        depth * (8 * width**2 + 2 * width * mlp) + width**2 + 4096 * width + (vocab + 1) * width + vocab
    )
    norms_and_positions = depth * (3 * width + 4 * width // model["heads"]) + 4 * width + 32 * width
    assert count(params) == matrices + norms_and_positions
    layers = jax.tree.leaves(params["transformer"]["layers"])
    assert layers and all(leaf.shape[0] == depth for leaf in layers)


def test_superres_size():
    model = load("superres_268m").model.to_dict()
    network = SuperResTransformer(**model)
    arguments = tokens(model["grid"]), tokens(model["low_grid"]), *text(model)
    assert count(abstract_params(network, *arguments)) == pytest.approx(268e6, rel=0.03)
    logits = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), *arguments)[0])
    assert logits.shape == (1, 64 * 64, 8192) and logits.dtype == jnp.float32


def tokenizer_size(model):
    """The parameters of MaskGIT's encoder and decoder with biases, and of the codebook, by hand."""

    def conv(kernel, inputs, outputs):
        return kernel**2 * inputs * outputs + outputs

    def blocks(inputs, width):
        skip = conv(1, inputs, width) if inputs != width else 0
        first = 2 * inputs + conv(3, inputs, width) + 2 * width + conv(3, width, width) + skip
        rest = 4 * width + 2 * conv(3, width, width)
        return first + (model.num_res_blocks - 1) * rest

    widths = [model.filters * multiplier for multiplier in model.multipliers]
    first, last, dim = widths[0], widths[-1], model.embed_dim
    encoder = conv(3, 3, first) + sum(map(blocks, [first, *widths], widths))
    encoder += blocks(last, last) + 2 * last + conv(1, last, dim)
    decoder = conv(3, dim, last) + 2 * blocks(last, last)
    decoder += sum(
        conv(3, wide, narrow) + blocks(narrow, narrow) for narrow, wide in itertools.pairwise(widths)
    )
    decoder += 2 * first + conv(3, first, 3)
    return encoder + decoder + model.codebook_size * dim


@pytest.mark.parametrize("name, side, downsampling", [("vqgan_f16_256", 256, 16), ("vqgan_f8_512", 512, 8)])
def test_tokenizer_sizes(name, side, downsampling):
    config = load(name)
    vqgan = VQGAN(**config.model.to_dict())
    images = jnp.zeros((1, side, side, 3))
    variables = jax.eval_shape(vqgan.init, jax.random.key(0), images)
    ids = jax.eval_shape(lambda v: vqgan.encode(v["params"], images), variables)
    assert config.data.image_size == side and vqgan.downsampling == downsampling
    assert ids.shape == (1, side // downsampling, side // downsampling)
    assert count(nn.unbox(variables)["params"]) == tokenizer_size(config.model)


def test_the_finetuned_decoder_fits_the_tokens_of_its_tokenizer():
    finetuned, trained = load("vqgan_f8_512_decoder"), load("vqgan_f8_512")
    assert finetuned.tokenizer == "runs/vqgan_f8_512"
    changed = {key for key, value in finetuned.model.items() if trained.model.get(key) != value}
    assert changed == {"decoder_filters", "decoder_res_blocks"}
