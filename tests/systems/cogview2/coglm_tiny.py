"""A CogLM of a few hundred weights, large enough for every part to matter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from muse_jax.systems.cogview2.coglm import CogLM
from muse_jax.systems.cogview2.sequences import Vocabulary

VOCABULARY = Vocabulary(image_codes=20, size=33)
NETWORK = CogLM(
    vocab_size=33,
    grid=(3, 3),
    text_length=5,
    image_position=7,
    width=16,
    depth=2,
    heads=2,
    mlp_dim=24,
)


def params():
    """Weights of size one, so that each token weighs on the others."""
    return jax.tree.map(jnp.asarray, _weights())


@functools.cache
def _weights():
    tokens = jnp.zeros((1, NETWORK.length), jnp.int32)
    shapes = meta.unbox(jax.eval_shape(NETWORK.init, jax.random.key(0), tokens, tokens)["params"])
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = str(path[-1])
        drawn = rng.normal(size=leaf.shape) * (leaf.shape[1] ** -0.5 if "kernel" in name else 1)
        if "scale" in name:
            drawn = 1 + 0.3 * drawn
        return (0.1 * drawn if "bias" in name else drawn).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def batch():
    """Four captions of 4, 2, 0 and 1 pieces, and images."""
    rng = np.random.default_rng(1)
    text = rng.integers(0, 10, (4, 4)).astype(np.int32)
    mask = np.arange(4) < np.array([4, 2, 0, 1])[:, None]
    return text, mask, rng.integers(0, 20, (4, 9)).astype(np.int32)
