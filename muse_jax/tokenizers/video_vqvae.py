"""VideoGPT's video tokenizer (Yan et al. 2021, arXiv 2104.10157): 3D convolutions and axial attention.

A code describes several frames at once, where a frame-by-frame tokenizer has codes for each frame and serves
single images too. Sizes and order of the layers follow the public program; group normalization stands in for
its batch normalization, which would make a clip's codes depend on the batch in training.
"""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from muse_jax.nn.attention import Attention
from muse_jax.nn.convolutions import NormSwish
from muse_jax.tokenizers.base import LatentSpec
from muse_jax.tokenizers.quantizer import Quantized, VectorQuantizer


class AxialAttention(nn.Module):
    """Sum of the self-attentions along time, height and width."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b s h w c"]) -> Float[Array, "b s h w c"]:
        total = jnp.zeros_like(x)
        for axis, name in enumerate(("time", "height", "width"), start=1):
            along = jnp.moveaxis(x, axis, 3)
            flat = along.reshape(-1, *along.shape[3:])
            out = Attention(self.heads, dtype=self.dtype, name=name)(flat)
            total += jnp.moveaxis(out.reshape(along.shape), 3, axis)
        return total


class AxialBlock(nn.Module):
    """Residual block: a 3x3x3 and a 1x1x1 convolution, then axial attention."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b s h w c"]) -> Float[Array, "b s h w c"]:
        width = x.shape[-1]
        h = nn.Conv(width // 2, (3, 3, 3), use_bias=False, dtype=self.dtype)(NormSwish(self.dtype)(x))
        h = nn.Conv(width, (1, 1, 1), use_bias=False, dtype=self.dtype)(NormSwish(self.dtype)(h))
        return x + AxialAttention(self.heads, self.dtype)(NormSwish(self.dtype)(h))


class VideoVQVAE(nn.Module):
    """Vector-quantized autoencoder of clips.

    Fields:
      downsample: frames, rows and columns of pixels a code stands for, powers of 2.
      width: of the convolutions.
      num_res_blocks: blocks of encoder and of decoder.
      heads: of axial attention.
      codebook_size, embed_dim: number of codes and their dimensions.
      dtype: of the computation.
    """

    downsample: tuple[int, int, int] = (4, 4, 4)
    width: int = 240
    num_res_blocks: int = 4
    heads: int = 2
    codebook_size: int = 2048
    embed_dim: int = 256
    dtype: Any = jnp.float32

    def example_inputs(self) -> tuple[Array, ...]:
        """Inputs of the smallest size, to initialize parameters with."""
        return (jnp.zeros((1, *self.downsample, 3)),)

    def setup(self):
        strides = [
            tuple(2 if size > 2**level else 1 for size in self.downsample) for level in range(self._levels)
        ]
        dtype = self.dtype
        self.down = [nn.Conv(self.width, (4, 4, 4), stride, dtype=dtype) for stride in strides]
        self.conv_in = nn.Conv(self.width, (3, 3, 3), dtype=dtype)
        self.encoder_blocks = [AxialBlock(self.heads, dtype) for _ in range(self.num_res_blocks)]
        self.encoder_norm = NormSwish(dtype)
        self.to_codes = nn.Conv(self.embed_dim, (1, 1, 1), dtype=dtype)
        self.quantizer = VectorQuantizer(self.codebook_size, self.embed_dim)
        self.from_codes = nn.Conv(self.width, (1, 1, 1), dtype=dtype)
        self.decoder_blocks = [AxialBlock(self.heads, dtype) for _ in range(self.num_res_blocks)]
        self.decoder_norm = NormSwish(dtype)
        widths = [self.width] * (self._levels - 1) + [3]
        self.up = [
            nn.ConvTranspose(width, (4, 4, 4), stride, dtype=dtype)
            for width, stride in zip(widths, reversed(strides), strict=True)
        ]

    @property
    def _levels(self) -> int:
        return max(1, round(math.log2(max(self.downsample))))

    def __call__(self, clips: Float[Array, "b s h w 3"]) -> tuple[Float[Array, "b s h w 3"], Quantized]:
        """Reconstructs `clips` in [-1, 1]; also returns the quantization with its losses."""
        quantized = self.quantizer(self.encode_vectors(clips))
        return self.decode_codes(quantized.codes), quantized

    def encode_vectors(self, clips: Float[Array, "b s h w 3"]) -> Float[Array, "b f i j dim"]:
        """The encoder's output before quantization."""
        self.latent_spec(clips.shape[1:])
        x = clips
        for layer in self.down:
            x = nn.relu(layer(x))
        x = self.conv_in(x)
        for block in self.encoder_blocks:
            x = block(x)
        return self.to_codes(self.encoder_norm(x))

    def decode_codes(self, codes: Float[Array, "b f i j dim"]) -> Float[Array, "b s h w 3"]:
        """Clips of codes' vectors."""
        x = self.from_codes(codes.astype(self.dtype))
        for block in self.decoder_blocks:
            x = block(x)
        x = self.decoder_norm(x)
        for level, layer in enumerate(self.up):
            x = layer(x if level == 0 else nn.relu(x))
        return x.astype(jnp.float32)

    def encode_ids(self, clips: Float[Array, "b s h w 3"]) -> Int[Array, "b f i j"]:
        """Module method behind `encode`."""
        return self.quantizer.nearest(self.encode_vectors(clips))

    def decode_ids(self, ids: Int[Array, "b f i j"]) -> Float[Array, "b s h w 3"]:
        """Module method behind `decode`."""
        return self.decode_codes(self.quantizer.lookup(ids))

    @nn.nowrap
    def encode(self, params: Any, clips: Float[Array, "b s h w 3"]) -> Int[Array, "b f i j"]:
        """Codes of `clips` in [-1, 1]."""
        ids: Any = self.apply({"params": params}, clips, method="encode_ids")
        return ids

    @nn.nowrap
    def decode(self, params: Any, ids: Int[Array, "b f i j"]) -> Float[Array, "b s h w 3"]:
        """Clips of codes, float32 in about [-1, 1]."""
        clips: Any = self.apply({"params": params}, ids, method="decode_ids")
        return clips

    @nn.nowrap
    def latent_spec(self, sample_shape: tuple[int, ...]) -> LatentSpec:
        """Codes of a clip `(frames, height, width, 3)`.

        Raises:
          ValueError: if a size is no multiple of `downsample`; a single image has no code.
        """
        sizes = sample_shape[:3]
        if any(size % factor for size, factor in zip(sizes, self.downsample, strict=True)):
            raise ValueError(
                f"clip of {'x'.join(map(str, sizes))} frames, rows and columns: each must be a multiple of "
                f"{'x'.join(map(str, self.downsample))}; cut or repeat frames, or resize them."
            )
        grid = tuple(size // factor for size, factor in zip(sizes, self.downsample, strict=True))
        return LatentSpec(grid, self.codebook_size)
