"""VQGAN of the released MaskGIT, whose layout differs from `muse_jax.tokenizers.VQGAN` in a few convolutions.

Modules have the names of the released checkpoints, so that these are read as they are.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from muse_jax.tokenizers.base import ImageTokenizer
from muse_jax.tokenizers.quantizer import VectorQuantizer


class ResBlock(nn.Module):
    """Residual block; where the width changes, its skip is a projection of the block's own output."""

    filters: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w filters"]:
        h = x
        for _ in range(2):
            h = nn.swish(_norm(self.dtype)(h))
            h = nn.Conv(self.filters, (3, 3), use_bias=False, dtype=self.dtype)(h)
        if x.shape[-1] != self.filters:
            x = nn.Conv(self.filters, (1, 1), use_bias=False, dtype=self.dtype)(h)
        return h + x


def _norm(dtype: Any) -> Callable[[Array], Array]:
    # A call of nn.GroupNorm inside a compact method makes a submodule GroupNorm_N of its caller.
    return nn.GroupNorm(dtype=dtype, use_fast_variance=False)


class Encoder(nn.Module):
    """Encoder: residual blocks and 2x average pooling at each level."""

    filters: int
    multipliers: tuple[int, ...]
    num_res_blocks: int
    embed_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b height width 3"]) -> Float[Array, "b h w dim"]:
        x = nn.Conv(self.filters, (3, 3), use_bias=False, dtype=self.dtype)(x)
        for level, multiplier in enumerate(self.multipliers):
            for _ in range(self.num_res_blocks):
                x = ResBlock(self.filters * multiplier, self.dtype)(x)
            if level + 1 < len(self.multipliers):
                x = nn.avg_pool(x, (2, 2), (2, 2))
        for _ in range(self.num_res_blocks):
            x = ResBlock(self.filters * self.multipliers[-1], self.dtype)(x)
        return nn.Conv(self.embed_dim, (1, 1), dtype=self.dtype)(nn.swish(_norm(self.dtype)(x)))


class Decoder(nn.Module):
    """Decoder: the encoder mirrored; the convolutions after upsampling keep the width of their level."""

    filters: int
    multipliers: tuple[int, ...]
    num_res_blocks: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w dim"]) -> Float[Array, "b height width 3"]:
        x = nn.Conv(self.filters * self.multipliers[-1], (3, 3), dtype=self.dtype)(x)
        for _ in range(self.num_res_blocks):
            x = ResBlock(self.filters * self.multipliers[-1], self.dtype)(x)
        for level in reversed(range(len(self.multipliers))):
            for _ in range(self.num_res_blocks):
                x = ResBlock(self.filters * self.multipliers[level], self.dtype)(x)
            if level > 0:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                x = nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype)(x)
        x = nn.Conv(3, (3, 3), dtype=self.dtype)(nn.swish(_norm(self.dtype)(x)))
        return x.astype(jnp.float32)


class MaskGITVQGAN(ImageTokenizer):
    """VQGAN of the released MaskGIT; a `Tokenizer` of images `(batch, height, width, 3)` in [-1, 1].

    Fields:
      filters, multipliers: channels of each level; every level but the first halves the resolution.
      num_res_blocks: residual blocks per level, and as many more at the bottom.
      codebook_size: number of codes.
      embed_dim: dimensions of a code.
      dtype: of the computation; parameters and quantization are float32.
    """

    filters: int = 128
    multipliers: Sequence[int] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    codebook_size: int = 1024
    embed_dim: int = 256
    dtype: Any = jnp.float32

    decoder_only: ClassVar[tuple[str, ...]] = ()
    """Fields that change the decoder, and neither the encoder nor its codes."""
    groups: ClassVar[int] = 1

    @property
    def downsampling(self) -> int:
        """Pixels per token along each side."""
        return 2 ** (len(self.multipliers) - 1)

    def example_inputs(self) -> tuple[Array, ...]:
        """Inputs of the smallest size, to initialize parameters with."""
        return (jnp.zeros((1, self.downsampling, self.downsampling, 3)),)

    def setup(self):
        sizes = (self.filters, tuple(self.multipliers), self.num_res_blocks)
        self.encoder = Encoder(*sizes, self.embed_dim, self.dtype)
        self.decoder = Decoder(*sizes, self.dtype)
        self.quantizer = VectorQuantizer(self.codebook_size, self.embed_dim)

    def __call__(self, images: Float[Array, "b height width 3"]) -> Float[Array, "b height width 3"]:
        """Reconstructs `images` in [-1, 1]."""
        return self.decode_ids(self.encode_ids(images))

    def encode_ids(self, images: Float[Array, "b height width 3"]) -> Int[Array, "b h w"]:
        """Module method behind `encode`; the networks take [0, 1]."""
        self.latent_spec(images.shape[1:])
        return self.quantizer.nearest(self.encoder((images + 1) / 2))

    def decode_ids(self, ids: Int[Array, "b h w"]) -> Float[Array, "b height width 3"]:
        """Module method behind `decode`."""
        return self.decoder(self.quantizer.lookup(ids).astype(self.dtype)) * 2 - 1
