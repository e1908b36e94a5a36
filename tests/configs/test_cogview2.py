"""The paper-size configs of CogView2: their parameter counts, and that they are configs of the trainer."""

import importlib

import jax
import jax.numpy as jnp
import pytest

from muse_jax.networks.coglm import CogLM
from muse_jax.training import validate_config


@pytest.mark.parametrize("name", ["cogview2.coglm_6b", "cogview2.vqgan_f8_160", "emoji.coglm"])
def test_the_trainer_takes_the_config(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert validate_config(config).model.to_dict() == config.model.to_dict()


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
