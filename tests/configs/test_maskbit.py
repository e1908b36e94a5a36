"""MaskBit's paper-size configs: the trainer takes them, their sizes, and that they fit together."""

import importlib

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from muse_jax.systems.muse.masked_transformer import MaskedTransformer
from muse_jax.tokenizers import VQGAN
from muse_jax.training import validate_config

TOKENIZERS = ("tokenizer_12bit", "tokenizer_14bit", "vqgan_plus_12bit")
GENERATORS = ("generator_12bit", "generator_14bit")


def load(name):
    return importlib.import_module(f"configs.maskbit.{name}").get_config()


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(params)))


@pytest.mark.parametrize("name", TOKENIZERS + GENERATORS)
def test_the_trainer_takes_the_config(name):
    config = load(name)
    assert validate_config(config).model.to_dict() == config.model.to_dict()


@pytest.mark.parametrize(
    "name, bits", [("tokenizer_12bit", 12), ("tokenizer_14bit", 14), ("vqgan_plus_12bit", 12)]
)
def test_a_tokenizer_gives_so_many_bits_a_position_and_has_the_published_widths(name, bits):
    model = load(name).model.to_dict()
    vqgan = VQGAN(**model)
    assert model["codebook_size"] ** model.get("groups", 1) == 2**bits
    images = jnp.zeros((1, 256, 256, 3))
    variables = jax.eval_shape(vqgan.init, jax.random.key(0), images)
    ids = jax.eval_shape(lambda v: vqgan.encode(v["params"], images), variables)
    assert ids.shape == ((1, 16, 16) if name == "vqgan_plus_12bit" else (1, 16, 16, 2))
    # 54M published, with convolutions in place of four poolings.
    assert 4.5e7 < count(variables["params"]) < 6.5e7


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_reads_its_tokenizers_codes_and_has_the_published_size_but_for_the_text(name):
    config, tokenizer = load(name), load(name.replace("generator", "tokenizer"))
    model = config.model.to_dict()
    assert (model["vocab_size"], model["groups"]) == (tokenizer.model.codebook_size, tokenizer.model.groups)
    network = MaskedTransformer(**model)
    text = jnp.zeros((1, 4, model["text_dim"])), jnp.ones((1, 4), bool)
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 512), jnp.int32), *text)["params"]
    cross_attention = 24 * 4 * 1024**2 + 2048 * 1024
    assert count(params) - cross_attention == pytest.approx(305e6, rel=0.02)
