"""VQGAN in the layout of taming-transformers (Esser et al. 2021), which aMUSEd and LlamaGen share.

It differs from `VQGAN`, which follows MaskGIT: convolutions of stride 2 reduce the resolution, attention may
follow the residual blocks, two more blocks stand in the middle, and 1x1 convolutions lie around the codebook.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from muse_jax.nn.convolutions import conv
from muse_jax.tokenizers.base import ImageTokenizer
from muse_jax.tokenizers.quantizer import Quantized, VectorQuantizer


class _Blocks(nn.Module):
    """Base of the encoder and the decoder: their sizes and residual blocks.

    Fields:
      channels: of each level, that of full resolution first.
      num_res_blocks: in each level.
      attention_levels: levels with attention after each of their residual blocks.
      middle_attention: whether attention stands between the two middle blocks.
      norm_groups: groups of the group norms.
    """

    channels: tuple[int, ...]
    num_res_blocks: int
    attention_levels: tuple[int, ...]
    middle_attention: bool
    norm_groups: int
    dtype: Any

    def norm(self, x: Array, name: str) -> Array:
        """Group norm, its variance computed in two passes."""
        return nn.GroupNorm(
            self.norm_groups, epsilon=1e-6, use_fast_variance=False, dtype=self.dtype, name=name
        )(x)

    def conv(self, x: Array, features: int, kernel: int, name: str) -> Array:
        """Convolution of stride 1."""
        return conv(features, kernel, self.dtype, name)(x)

    def block(self, x: Array, features: int, name: str) -> Array:
        """Residual block, its skip projected where the width changes."""
        h = self.conv(nn.silu(self.norm(x, f"{name}_norm1")), features, 3, f"{name}_conv1")
        h = self.conv(nn.silu(self.norm(h, f"{name}_norm2")), features, 3, f"{name}_conv2")
        return h + (x if x.shape[-1] == features else self.conv(x, features, 1, f"{name}_skip"))

    def attention(self, x: Float[Array, "b h w c"], name: str) -> Float[Array, "b h w c"]:
        """Residual attention of one head over all positions."""
        batch, height, width, channels = x.shape
        normal = self.norm(x, f"{name}_norm")
        query, key, value = (
            self.conv(normal, channels, 1, f"{name}_{part}").reshape(batch, -1, 1, channels)
            for part in ("query", "key", "value")
        )
        mixed = jax.nn.dot_product_attention(query, key, value).reshape(x.shape)
        return x + self.conv(mixed, channels, 1, f"{name}_out")

    def level(self, x: Array, index: int, count: int, name: str) -> Array:
        """`count` residual blocks of a level, with their attentions."""
        for i in range(count):
            x = self.block(x, self.channels[index], f"{name}_block_{i}")
            if index in self.attention_levels:
                x = self.attention(x, f"{name}_attention_{i}")
        return x

    def middle(self, x: Array) -> Array:
        """The blocks at the lowest resolution."""
        x = self.block(x, self.channels[-1], "middle_block_1")
        if self.middle_attention:
            x = self.attention(x, "middle_attention")
        return self.block(x, self.channels[-1], "middle_block_2")


class _Encoder(_Blocks):
    latent_dim: int = 0
    embed_dim: int = 0

    @nn.compact
    def __call__(self, images: Float[Array, "b height width 3"]) -> Float[Array, "b h w dim"]:
        x = self.conv(images, self.channels[0], 3, "conv_in")
        for index in range(len(self.channels)):
            x = self.level(x, index, self.num_res_blocks, f"down_{index}")
            if index + 1 < len(self.channels):
                # Zeros below and to the right only, as PyTorch's padding (0, 1, 0, 1).
                x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
                x = nn.Conv(
                    x.shape[-1], (3, 3), (2, 2), "VALID", dtype=self.dtype, name=f"down_{index}_downsample"
                )(x)
        x = nn.silu(self.norm(self.middle(x), "norm_out"))
        x = self.conv(x, self.latent_dim, 3, "conv_out")
        return self.conv(x, self.embed_dim, 1, "to_code")


class _Decoder(_Blocks):
    latent_dim: int = 0

    @nn.compact
    def __call__(self, codes: Float[Array, "b h w dim"]) -> Float[Array, "b height width 3"]:
        x = self.conv(codes, self.latent_dim, 1, "from_code")
        x = self.middle(self.conv(x, self.channels[-1], 3, "conv_in"))
        for index in reversed(range(len(self.channels))):
            x = self.level(x, index, self.num_res_blocks + 1, f"up_{index}")
            if index > 0:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                x = self.conv(x, x.shape[-1], 3, f"up_{index}_upsample")
        x = nn.silu(self.norm(x, "norm_out"))
        return self.conv(x, 3, 3, "conv_out").astype(jnp.float32)


class TamingVQGAN(ImageTokenizer):
    """VQGAN of taming-transformers; a `Tokenizer` of images `(batch, height, width, 3)` in [-1, 1].

    The defaults are those of its f16 model with 1024 codes on ImageNet.

    Fields:
      channels: of each level; every level but the first halves the resolution.
      num_res_blocks: residual blocks of a level in the encoder; the decoder's levels have one more.
      attention_levels: levels with attention after each of their residual blocks.
      middle_attention: whether attention stands between the two middle blocks.
      latent_dim: channels of the encoder's output.
      codebook_size: number of codes.
      embed_dim: dimensions of a code.
      normalize_codes: compare and look up unit vectors (LlamaGen).
      norm_groups: groups of the group norms.
      black: value of a black pixel as the network takes it, -1 or 0; a white pixel is 1.
      dtype: of the computation; parameters and quantization are float32.
    """

    channels: Sequence[int] = (128, 128, 256, 256, 512)
    num_res_blocks: int = 2
    attention_levels: Sequence[int] = (4,)
    middle_attention: bool = True
    latent_dim: int = 256
    codebook_size: int = 1024
    embed_dim: int = 256
    normalize_codes: bool = False
    norm_groups: int = 32
    black: float = -1.0
    dtype: Any = jnp.float32

    decoder_only: ClassVar[tuple[str, ...]] = ()
    """Fields that change the decoder, and neither the encoder nor its codes."""
    groups: ClassVar[int] = 1

    @property
    def downsampling(self) -> int:
        """Pixels per token along each side."""
        return 2 ** (len(self.channels) - 1)

    def example_inputs(self) -> tuple[Array, ...]:
        """Inputs of the smallest size, to initialize parameters with."""
        return (jnp.zeros((1, self.downsampling, self.downsampling, 3)),)

    def setup(self):
        shared = {
            "channels": tuple(self.channels),
            "num_res_blocks": self.num_res_blocks,
            "attention_levels": tuple(self.attention_levels),
            "middle_attention": self.middle_attention,
            "norm_groups": self.norm_groups,
            "dtype": self.dtype,
            "latent_dim": self.latent_dim,
        }
        self.encoder = _Encoder(**shared, embed_dim=self.embed_dim)
        self.decoder = _Decoder(**shared)
        self.quantizer = VectorQuantizer(self.codebook_size, self.embed_dim, self.normalize_codes)

    def __call__(
        self, images: Float[Array, "b height width 3"]
    ) -> tuple[Float[Array, "b height width 3"], Quantized]:
        """Reconstructs `images` in [-1, 1]; also returns the quantization with its losses."""
        quantized = self.quantizer(self.encode_vectors(images))
        return self._pixels(quantized.codes), quantized

    def encode_vectors(self, images: Float[Array, "b height width 3"]) -> Float[Array, "b h w dim"]:
        """The encoder's output before quantization."""
        self.latent_spec(images.shape[1:])
        return self.encoder((self.black + 1 + images * (1 - self.black)) / 2)

    def encode_ids(self, images: Float[Array, "b height width 3"]) -> Int[Array, "b h w"]:
        """Module method behind `encode`."""
        return self.quantizer.nearest(self.encode_vectors(images))

    def decode_ids(self, ids: Int[Array, "b h w"]) -> Float[Array, "b height width 3"]:
        """Module method behind `decode`."""
        return self._pixels(self.quantizer.lookup(ids))

    def _pixels(self, codes: Float[Array, "b h w dim"]) -> Float[Array, "b height width 3"]:
        return (self.decoder(codes.astype(self.dtype)) * 2 - self.black - 1) / (1 - self.black)
