"""Tokenizer protocol: samples of any modality to latents on a grid and back."""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from flax import linen as nn
from jaxtyping import Array, Float, Int


@dataclass(frozen=True)
class LatentSpec:
    """Latents of one sample.

    Fields:
      grid: sizes of the latent grid: (h, w) for images, (s, h, w) for video, (mel, time) for spectrograms.
      codebook_size: number of codes; None for continuous latents.
      groups: codes per position, or channels of a continuous latent.
    """

    grid: tuple[int, ...]
    codebook_size: int | None
    groups: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample's latents: the grid, then an axis of groups (one code per position has none)."""
        return self.grid if self.codebook_size is not None and self.groups == 1 else (*self.grid, self.groups)

    @property
    def num_tokens(self) -> int:
        """Length of the flat sequence that `flat_tokens` makes."""
        return math.prod(self.grid) * self.groups


@runtime_checkable
class Tokenizer(Protocol):
    """A tokenizer: pure functions of its parameters.

    Latents are int32 codes in `[0, codebook_size)`, or float32 if `codebook_size` is None. A class may name
    in `decoder_only` the fields that only its decoder reads: like the parameters under "decoder", they may
    change without making stored latents invalid.
    """

    def encode(self, params: Any, x: Array, /) -> Array:
        """Latents `(batch, *latent_spec(x.shape[1:]).shape)` of the samples `x`."""
        ...

    def decode(self, params: Any, latents: Array, /) -> Array:
        """Samples of `latents`, the approximate inverse of `encode`."""
        ...

    def latent_spec(self, sample_shape: tuple[int, ...], /) -> LatentSpec:
        """Latents of a sample of this shape (without the batch axis).

        Raises:
          ValueError: if the tokenizer cannot encode a sample of this shape.
        """
        ...


class ImageTokenizer(nn.Module):
    """Base of the image tokenizers: pure functions over the module methods `encode_ids` and `decode_ids`.

    A subclass has `codebook_size` and `downsampling`, and `groups` if a position has several codes.
    """

    @nn.nowrap
    def encode(self, params: Any, images: Float[Array, "b height width 3"]) -> Int[Array, "b h w *groups"]:
        """Codes of `images` in [-1, 1]; the last axis is present if `groups` is above 1."""
        ids: Any = self.apply({"params": params}, images, method="encode_ids")
        return ids

    @nn.nowrap
    def decode(self, params: Any, ids: Int[Array, "b h w *groups"]) -> Float[Array, "b height width 3"]:
        """Images of codes, float32 in about [-1, 1]."""
        images: Any = self.apply({"params": params}, ids, method="decode_ids")
        return images

    @nn.nowrap
    def latent_spec(self, sample_shape: tuple[int, ...]) -> LatentSpec:
        """Codes of an image `(height, width, 3)`.

        Raises:
          ValueError: if a side is no multiple of `downsampling`.
        """
        fields: Any = self
        height, width = sample_shape[:2]
        factor: int = fields.downsampling
        if height % factor or width % factor:
            raise ValueError(
                f"image of {height}x{width} pixels: both sides must be multiples of {factor}, "
                "the tokenizer's downsampling factor; resize or crop the image"
            )
        grid = (height // factor, width // factor)
        return LatentSpec(grid, fields.codebook_size, getattr(self, "groups", 1))


def flat_tokens(ids: Int[Array, " b *grid_and_groups"]) -> Int[Array, "b n"]:
    """Codes as a sequence in raster order, the groups of a position side by side."""
    return ids.reshape(len(ids), -1)


def token_grid(
    tokens: Int[Array, "b n"], grid: tuple[int, ...], groups: int
) -> Int[Array, " b *grid_and_groups"]:
    """Inverse of `flat_tokens`: codes as a tokenizer decodes them."""
    return tokens.reshape(len(tokens), *grid, *(() if groups == 1 else (groups,)))
