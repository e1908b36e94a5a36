"""VideoGPT's tokenizer: axial attention by loops, codes of whole groups of frames, and a short run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.nn.attention import Attention
from muse_jax.nn.shapes import abstract_params, parameter_shapes
from muse_jax.tokenizers.base import Tokenizer
from muse_jax.tokenizers.video_vqvae import AxialAttention, VideoVQVAE

SMALL = VideoVQVAE((2, 4, 4), width=8, num_res_blocks=1, codebook_size=16, embed_dim=4)


def random_params(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)


def test_axial_attention_is_the_sum_over_lines_by_loops():
    x = jax.random.normal(jax.random.key(0), (1, 2, 3, 2, 4))
    module = AxialAttention(2, jnp.float32)
    params = random_params(abstract_params(module, x))
    out = module.apply({"params": params}, x)
    for s, i, j in np.ndindex(2, 3, 2):
        lines = {"time": (x[:, :, i, j], s), "height": (x[:, s, :, j], i), "width": (x[:, s, i], j)}
        total = sum(
            Attention(2).apply({"params": params[name]}, line)[0, at] for name, (line, at) in lines.items()
        )
        np.testing.assert_allclose(out[0, s, i, j], total, atol=1e-5)


def test_it_is_a_tokenizer_whose_codes_stand_for_several_frames():
    params = random_params(parameter_shapes(SMALL))
    clips = np.random.default_rng(1).uniform(-1, 1, (2, 4, 8, 8, 3)).astype(np.float32)
    ids = jax.jit(SMALL.encode)(params, clips)
    spec = SMALL.latent_spec(clips.shape[1:])
    assert isinstance(SMALL, Tokenizer) and spec.grid == ids.shape[1:] == (2, 2, 2)
    assert ids.min() >= 0 and ids.max() < 16 and len(np.unique(ids)) > 1
    decoded = jax.jit(SMALL.decode)(params, ids)
    assert decoded.shape == clips.shape
    np.testing.assert_allclose(decoded, jax.jit(SMALL.apply)({"params": params}, clips)[0], atol=1e-4)


def test_a_single_image_has_no_code():
    with pytest.raises(ValueError, match="clip of 1x8x8 frames.* must be a multiple of 2x4x4"):
        SMALL.latent_spec((1, 8, 8, 3))
