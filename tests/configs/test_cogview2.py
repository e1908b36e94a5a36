"""The paper-size configs of CogView2: their parameter counts, and that they are configs of the trainer."""

import importlib

import jax
import jax.numpy as jnp
import pytest

from muse_jax.systems.cogview2.coglm import CogLM
from muse_jax.systems.cogview2.sampling_params import CogLMSampling
from muse_jax.systems.cogview2.superres import DirectSuperRes, IterativeSuperRes, split_params
from muse_jax.training import validate_config

NAMES = (
    "cogview2.coglm_6b",
    "cogview2.direct_superres",
    "cogview2.iterative_superres",
    "cogview2.vqgan_f8_160",
    "emoji.coglm",
    "emoji.coglm_direct",
    "emoji.coglm_iterative",
)


@pytest.mark.parametrize("name", NAMES)
def test_the_trainer_takes_the_config(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert validate_config(config).model.to_dict() == config.model.to_dict()


def test_text_weighs_as_in_the_published_programs():
    config = importlib.import_module("configs.cogview2.coglm_6b").get_config()
    assert config.sampling.text_weight == 1.4
    assert CogLMSampling().text_weight == CogLMSampling().infill_text_weight == 1.4


def test_coglm_has_the_paper_s_six_billion_parameters():
    model = importlib.import_module("configs.cogview2.coglm_6b").get_config().model.to_dict()
    network = CogLM(**model)
    tokens = jnp.zeros((1, network.length), jnp.int32)
    assert network.length == 512
    shapes = jax.eval_shape(network.init, jax.random.key(0), tokens, tokens)["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    width, depth, vocab = (model[key] for key in ("width", "depth", "vocab_size"))
    matrices = 12 * depth * width**2 + vocab * width
    small = vocab + (512 + 401) * width + (8 * depth + 2) * width
    assert count == matrices + small
    assert count == pytest.approx(6e9, rel=0.02)


def test_super_resolution_has_the_coglm_and_its_own_weights():
    model = importlib.import_module("configs.cogview2.direct_superres").get_config().model.to_dict()
    network = DirectSuperRes(**model)
    tokens = jnp.zeros((1, network.length), jnp.int32)
    assert network.length + 60 * 60 == 4096
    init = lambda: network.init(jax.random.key(0), tokens, tokens, method="hidden")["params"]  # noqa: E731
    coglm, own = split_params(jax.eval_shape(init))
    width, depth = model["width"], model["depth"]
    assert _count(own) == 4 * depth * width**2 + 3600 * width
    assert _count(coglm) + _count(own) == pytest.approx(7.75e9, rel=0.01)


def test_iterative_super_resolution_has_a_coglm_s_weights():
    model = importlib.import_module("configs.cogview2.iterative_superres").get_config().model.to_dict()
    network = IterativeSuperRes(**model)
    tokens, text = jnp.zeros((1, 3600), jnp.int32), jnp.zeros((1, 16), jnp.int32)
    init = lambda: network.init(jax.random.key(0), tokens, text, text == 0, method="hidden")  # noqa: E731
    assert _count(jax.eval_shape(init)) == pytest.approx(5.93e9, rel=0.01)


def _count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
