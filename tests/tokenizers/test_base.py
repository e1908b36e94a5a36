"""The tokenizer protocol with image, video and continuous audio tokenizers."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from muse_jax.nn.heads import unembed
from muse_jax.nn.positions import TokenGrid
from muse_jax.nn.transformer import Transformer
from muse_jax.sampling import masked_decode
from muse_jax.tokenizers import VQGAN, LatentSpec, Tokenizer, flat_tokens, token_grid


@dataclass(frozen=True)
class MeanVideoTokenizer:
    """Three axes and two codes per position: mean and contrast of each box, in 5 levels of [0, 1]."""

    box: tuple[int, int, int] = (2, 4, 4)

    def encode(self, params, x):
        s, h, w = self.latent_spec(x.shape[1:]).grid
        boxes = x.reshape(len(x), s, self.box[0], h, self.box[1], w, self.box[2])
        figures = [boxes.mean((2, 4, 6)), boxes.max((2, 4, 6)) - boxes.min((2, 4, 6))]
        return jnp.round(4 * jnp.stack(figures, axis=-1)).astype(jnp.int32)

    def decode(self, params, latents):
        x = latents[..., 0] / 4
        for axis, size in enumerate(self.box, start=1):
            x = jnp.repeat(x, size, axis)
        return x

    def latent_spec(self, sample_shape):
        return LatentSpec(tuple(n // size for n, size in zip(sample_shape, self.box, strict=True)), 5, 2)


class LinearAudioTokenizer:
    """One axis and continuous latents: an orthogonal map of every 8 samples."""

    def encode(self, params, x):
        return x.reshape(len(x), -1, 8) @ params["map"]

    def decode(self, params, latents):
        return (latents @ params["map"].T).reshape(len(latents), -1)

    def latent_spec(self, sample_shape):
        return LatentSpec((sample_shape[0] // 8,), None, 8)


def image_tokenizer():
    vqgan = VQGAN(filters=4, multipliers=(1, 1), num_res_blocks=1, codebook_size=8, embed_dim=3, patch=2)
    return vqgan, nn.unbox(vqgan.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))["params"]


def grouped_tokenizer():
    vqgan = VQGAN(
        filters=4,
        multipliers=(1,),
        num_res_blocks=1,
        codebook_size=4,
        embed_dim=6,
        quantizer_kind="lfq",
        groups=3,
        patch=4,
    )
    return vqgan, nn.unbox(vqgan.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))["params"]


def video_tokenizer():
    return MeanVideoTokenizer(), None


def audio_tokenizer():
    orthogonal, _ = np.linalg.qr(np.random.default_rng(0).random((8, 8)))
    return LinearAudioTokenizer(), {"map": jnp.asarray(orthogonal)}


@pytest.mark.parametrize(
    "make, sample_shape, spec, shape, count",
    [
        (image_tokenizer, (8, 12, 3), LatentSpec((2, 3), 8), (2, 3), 6),
        (grouped_tokenizer, (8, 12, 3), LatentSpec((2, 3), 4, 3), (2, 3, 3), 18),
        (video_tokenizer, (4, 8, 12), LatentSpec((2, 2, 3), 5, 2), (2, 2, 3, 2), 24),
        (audio_tokenizer, (48,), LatentSpec((6,), None, 8), (6, 8), 48),
    ],
)
def test_latents_and_samples_have_the_shapes_that_the_spec_says(make, sample_shape, spec, shape, count):
    tokenizer, params = make()
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.latent_spec(sample_shape) == spec
    assert spec.shape == shape and spec.num_tokens == count
    x = jax.random.uniform(jax.random.key(1), (2, *sample_shape))
    latents = jax.jit(tokenizer.encode)(params, x)
    assert latents.shape == (2, *shape)
    if spec.codebook_size is None:
        assert latents.dtype == jnp.float32
    else:
        assert latents.dtype == jnp.int32 and latents.min() >= 0 and latents.max() < spec.codebook_size
        flat = flat_tokens(latents)
        assert flat.shape == (2, count)
        np.testing.assert_array_equal(token_grid(flat, spec.grid, spec.groups), latents)
    assert jax.jit(tokenizer.decode)(params, latents).shape == x.shape


def test_a_vqgan_encodes_and_decodes_as_its_own_reconstruction():
    vqgan, params = image_tokenizer()
    x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3), minval=-1)
    reconstruction, quantized = vqgan.apply({"params": params}, x)
    np.testing.assert_array_equal(vqgan.encode(params, x), quantized.ids)
    np.testing.assert_allclose(vqgan.decode(params, quantized.ids), reconstruction, atol=1e-5)


def test_a_sample_that_the_grid_does_not_fit_is_refused():
    vqgan, _ = image_tokenizer()
    with pytest.raises(ValueError, match="image of 8x10 pixels: both sides must be multiples of 4"):
        vqgan.latent_spec((8, 10, 3))


class VideoTransformer(nn.Module):
    """A masked transformer on the codes of any tokenizer."""

    spec: LatentSpec

    @nn.compact
    def __call__(self, tokens):
        embedding = TokenGrid(self.spec.codebook_size, self.spec.grid, 8, groups=self.spec.groups)
        x = Transformer(depth=1, heads=2, mlp_dim=8)(embedding(tokens))
        table = embedding.embedding[..., : self.spec.codebook_size, :]
        return unembed(x, table, jnp.zeros(table.shape[:-1]))


@pytest.mark.parametrize("order", ["confidence", "halton"])
def test_masked_decoding_samples_the_codes_of_three_axes(order):
    """The same positions, embeddings and sampler as for images; known codes stay."""
    tokenizer = MeanVideoTokenizer()
    x = jax.random.uniform(jax.random.key(0), (2, 4, 8, 12))
    spec = tokenizer.latent_spec(x.shape[1:])
    network = VideoTransformer(spec)
    known = flat_tokens(tokenizer.encode(None, x))
    masked = jnp.arange(spec.num_tokens) % 3 > 0
    tokens = jnp.where(masked, spec.codebook_size, known)
    params = network.init(jax.random.key(1), tokens)
    grid = (*spec.grid[:-1], spec.grid[-1] * spec.groups)
    sampled = masked_decode(
        lambda tokens, _: network.apply(params, tokens),
        tokens,
        jax.random.key(2),
        mask_id=spec.codebook_size,
        num_steps=4,
        order=order,
        grid=grid,
    )
    assert sampled.max() < spec.codebook_size
    np.testing.assert_array_equal(jnp.where(masked, known, sampled), known)
    assert tokenizer.decode(None, token_grid(sampled, spec.grid, spec.groups)).shape == x.shape
