"""VQGAN image tokenizer (Esser et al. 2021), with the sizes of MaskGIT's, which Muse follows.

It is fully convolutional, without attention: one set of weights serves every resolution that is a multiple of
the downsampling factor.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from muse_jax.nn.convolutions import NormSwish, ResBlock, conv
from muse_jax.tokenizers.base import ImageTokenizer
from muse_jax.tokenizers.lookup_free import FiniteScalarQuantizer, LookupFreeQuantizer
from muse_jax.tokenizers.quantizer import Quantized, VectorQuantizer

QUANTIZERS = ("vq", "fsq", "lfq")


class Encoder(nn.Module):
    """Encoder: residual blocks and 2x average pooling at each level, more residual blocks at the bottom."""

    filters: int
    multipliers: Sequence[int]
    num_res_blocks: int
    embed_dim: int
    patch: int
    dtype: Any

    @nn.compact
    def __call__(self, images: Float[Array, "b height width 3"]) -> Float[Array, "b h w dim"]:
        x = rearrange(images, "b (h p) (w q) c -> b h w (p q c)", p=self.patch, q=self.patch)
        x = conv(self.filters * self.multipliers[0], 3, self.dtype)(x)
        for level, multiplier in enumerate(self.multipliers):
            if level > 0:
                x = nn.avg_pool(x, (2, 2), (2, 2))
            for _ in range(self.num_res_blocks):
                x = ResBlock(self.filters * multiplier, self.dtype)(x)
        for _ in range(self.num_res_blocks):
            x = ResBlock(self.filters * self.multipliers[-1], self.dtype)(x)
        return conv(self.embed_dim, 1, self.dtype)(NormSwish(self.dtype)(x))


class PatchEncoder(nn.Module):
    """Local encoder: each vector depends only on its patch, by a linear map plus an MLP that starts at 0.

    A code then describes its patch and not the neighbours. Such codes are used very unevenly and are
    therefore cheap to predict; the decoder models what neighbours have in common. The linear map starts
    orthogonal: at first the vectors are a projection of the patches to `embed_dim` dimensions.
    """

    filters: int
    num_res_blocks: int
    embed_dim: int
    patch: int
    dtype: Any

    @nn.compact
    def __call__(self, images: Float[Array, "b height width 3"]) -> Float[Array, "b h w dim"]:
        pixels = rearrange(images, "b (h p) (w q) c -> b h w (p q c)", p=self.patch, q=self.patch)
        orthogonal = nn.with_logical_partitioning(nn.initializers.orthogonal(), (None, "conv_out"))
        x = nn.Dense(self.embed_dim, use_bias=False, kernel_init=orthogonal, dtype=self.dtype)(pixels)
        h = conv(self.filters, 1, self.dtype)(pixels)
        for _ in range(self.num_res_blocks):
            h = h + conv(self.filters, 1, self.dtype)(nn.swish(nn.LayerNorm(dtype=self.dtype)(h)))
        gain = self.param("gain", nn.with_logical_partitioning(nn.initializers.zeros, (None,)), (1,))
        return x + gain * conv(self.embed_dim, 1, self.dtype)(nn.swish(h))


class Decoder(nn.Module):
    """Decoder: the encoder mirrored, with nearest-neighbour upsampling followed by a convolution."""

    filters: int
    multipliers: Sequence[int]
    num_res_blocks: int
    patch: int
    dtype: Any
    channels: int = 3

    @nn.compact
    def __call__(self, codes: Float[Array, "b h w dim"]) -> Float[Array, "b height width channels"]:
        x = conv(self.filters * self.multipliers[-1], 3, self.dtype)(codes)
        for _ in range(self.num_res_blocks):
            x = ResBlock(self.filters * self.multipliers[-1], self.dtype)(x)
        for level in reversed(range(len(self.multipliers))):
            for _ in range(self.num_res_blocks):
                x = ResBlock(self.filters * self.multipliers[level], self.dtype)(x)
            if level > 0:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                x = conv(self.filters * self.multipliers[level - 1], 3, self.dtype)(x)
        x = NormSwish(self.dtype)(x)
        x = conv(self.channels * self.patch**2, 3, self.dtype)(x)
        p = self.patch
        return rearrange(x, "b h w (p q c) -> b (h p) (w q) c", p=p, q=p).astype(jnp.float32)


class VQGAN(ImageTokenizer):
    """VQGAN image tokenizer; a `Tokenizer` of images `(batch, height, width, 3)` in [-1, 1].

    Fields:
      filters, multipliers: channels of each level; every level but the first halves the resolution.
      num_res_blocks: residual blocks per level, and as many more at the bottom.
      codebook_size: number of codes.
      embed_dim: dimensions of a code.
      patch: factor of the space-to-depth before the first convolution; 1 in the papers. Small models on CPU
        want 4, because convolutions at full resolution cost the most there and gain the least.
      decoder_filters, decoder_res_blocks: sizes of a decoder larger than the encoder, for Muse's decoder
        finetuning (section 2.8); None: as the encoder's.
      decoder_multipliers, decoder_patch: levels of the decoder; None: as the encoder's. With an encoder of
        patch 2, a decoder that ends in convolutions at full resolution gives sharper outlines.
      local: encode each square of `downsampling` pixels by itself (`PatchEncoder`). The codebook, if it is
        learned, then starts from data (`VQGANTask`).
      quantizer_kind: "vq", a learned codebook (`VectorQuantizer`); "fsq", `embed_dim` dimensions of `levels`
        levels each (`FiniteScalarQuantizer`); "lfq", `embed_dim` bits (`LookupFreeQuantizer`).
      groups: codes per position, of `codebook_size` values each; above 1 only with "fsq" and "lfq".
      normalize_codes, entropy_temperature: see `VectorQuantizer`.
      dtype: of the computation; parameters and quantization are float32.
    """

    filters: int = 128
    multipliers: Sequence[int] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    codebook_size: int = 8192
    embed_dim: int = 256
    patch: int = 1
    decoder_filters: int | None = None
    decoder_res_blocks: int | None = None
    normalize_codes: bool = False
    local: bool = False
    entropy_temperature: float = 0.01
    decoder_multipliers: Sequence[int] | None = None
    decoder_patch: int | None = None
    quantizer_kind: str = "vq"
    groups: int = 1
    levels: int = 2
    dtype: Any = jnp.float32

    decoder_only: ClassVar[tuple[str, ...]] = (
        "decoder_filters",
        "decoder_res_blocks",
        "decoder_multipliers",
        "decoder_patch",
    )
    """Fields that change the decoder, and neither the encoder nor its codes."""

    @property
    def channels(self) -> int:
        """Channels of the decoder's output."""
        return 3

    @property
    def downsampling(self) -> int:
        """Pixels per token along each side."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    def example_inputs(self) -> tuple[Array, ...]:
        """Inputs of the smallest size, to initialize parameters with."""
        return (jnp.zeros((1, self.downsampling, self.downsampling, 3)),)

    def setup(self):
        if self.local:
            self.encoder = PatchEncoder(
                self.filters, self.num_res_blocks, self.embed_dim, self.downsampling, self.dtype
            )
        else:
            self.encoder = Encoder(
                self.filters,
                tuple(self.multipliers),
                self.num_res_blocks,
                self.embed_dim,
                self.patch,
                self.dtype,
            )
        self.quantizer = self._make_quantizer()
        multipliers = tuple(self.decoder_multipliers or self.multipliers)
        patch = self.decoder_patch or self.patch
        if patch * 2 ** (len(multipliers) - 1) != self.downsampling:
            raise ValueError(
                f"decoder_patch {patch} and {len(multipliers)} decoder_multipliers enlarge "
                f"{patch * 2 ** (len(multipliers) - 1)} times, but the encoder reduces {self.downsampling} "
                "times: choose levels that make them equal."
            )
        self.decoder = Decoder(
            self.decoder_filters or self.filters,
            multipliers,
            self.decoder_res_blocks or self.num_res_blocks,
            patch,
            self.dtype,
            self.channels,
        )

    def _make_quantizer(self) -> VectorQuantizer | FiniteScalarQuantizer | LookupFreeQuantizer:
        if self.quantizer_kind == "fsq":
            return FiniteScalarQuantizer((self.levels,) * self.embed_dim, self.codebook_size, self.groups)
        if self.quantizer_kind == "lfq":
            return LookupFreeQuantizer(
                self.embed_dim, self.codebook_size, self.groups, self.entropy_temperature
            )
        if self.quantizer_kind != "vq":
            raise ValueError(
                f"quantizer_kind is {self.quantizer_kind!r}, but must be one of {', '.join(QUANTIZERS)}."
            )
        if self.groups != 1:
            raise ValueError(
                f"groups is {self.groups}, but a learned codebook has one code per position: use fsq or lfq."
            )
        return VectorQuantizer(
            self.codebook_size, self.embed_dim, self.normalize_codes, self.entropy_temperature
        )

    def __call__(
        self, images: Float[Array, "b height width 3"]
    ) -> tuple[Float[Array, "b height width 3"], Quantized]:
        """Reconstructs `images` in [-1, 1]; also returns the quantization with its losses.

        Raises:
          ValueError: if a side is no multiple of `downsampling`.
        """
        quantized = self.quantizer(self.encode_vectors(images))
        return self.decoder(quantized.codes.astype(self.dtype)), quantized

    def encode_vectors(self, images: Float[Array, "b height width 3"]) -> Float[Array, "b h w dim"]:
        """The encoder's output before quantization."""
        self.latent_spec(images.shape[1:])
        return self.encoder(images)

    def encode_ids(self, images: Float[Array, "b height width 3"]) -> Int[Array, "b h w *groups"]:
        """Module method behind `encode`."""
        return self.quantizer.nearest(self.encode_vectors(images))

    def decode_ids(self, ids: Int[Array, "b h w *groups"]) -> Float[Array, "b height width 3"]:
        """Module method behind `decode`."""
        return self.decoder(self.quantizer.lookup(ids).astype(self.dtype))
