"""Quantizers without a codebook, which round each dimension by itself (FSQ, LFQ).

The rounded dimensions of a position are the digits of a number. They form one code or, split into `groups` of
equal size, several codes of a smaller vocabulary (MaskBit, section 3.2). A transformer then predicts `groups`
softmaxes over `codebook_size` entries, each of which occurs often.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

from muse_jax.tokenizers.quantizer import Quantized, code_histogram, histogram_statistics

_EDGE = 1e-3  # FSQ's margin between the outermost level and the limit of the bounding function


def _place_values(levels: Sequence[int], groups: int) -> np.ndarray:
    """Place value of each dimension in its group's id; the first dimension is the least significant."""
    grouped = np.reshape(levels, (groups, -1))
    return np.concatenate([np.ones((groups, 1), int), np.cumprod(grouped, axis=1)[:, :-1]], axis=1)


def digits_to_ids(digits: Int[Array, "... dim"], levels: Sequence[int], groups: int) -> Int[Array, "..."]:
    """Ids of digits in `[0, levels)`: int32 `(...)` for one group, `(..., groups)` for several."""
    grouped = rearrange(digits, "... (g d) -> ... g d", g=groups)
    ids = jnp.sum(grouped * _place_values(levels, groups), axis=-1).astype(jnp.int32)
    return ids[..., 0] if groups == 1 else ids


def ids_to_digits(ids: Int[Array, "..."], levels: Sequence[int], groups: int) -> Int[Array, "... dim"]:
    """Inverse of `digits_to_ids`."""
    ids = ids[..., None] if groups == 1 else ids
    digits = ids[..., None] // _place_values(levels, groups) % np.reshape(levels, (groups, -1))
    return rearrange(digits, "... g d -> ... (g d)")


def _check_groups(levels: Sequence[int], groups: int, codebook_size: int) -> None:
    if groups < 1 or len(levels) % groups:
        raise ValueError(
            f"groups is {groups}, which does not divide {len(levels)} dimensions: choose a divisor."
        )
    sizes = np.prod(np.reshape(levels, (groups, -1)), axis=1).tolist()
    if set(sizes) != {codebook_size}:
        raise ValueError(
            f"codebook_size is {codebook_size}, but the levels {tuple(levels)} in {groups} groups give "
            f"{sizes} codes: set it to their number, which must be equal in all groups."
        )


class FiniteScalarQuantizer(nn.Module):
    """FSQ: bounds each dimension and rounds it to one of its levels (Mentzer et al., ICLR 2024, section 3).

    The published `bound` shifts even numbers of levels by tan(1 / (2 h)) where the inverse function, atanh,
    is meant; this one uses atanh, so that a zero vector stays in the middle. The quantizer has no parameters
    and all its losses are 0.

    Fields:
      levels: number of levels of each dimension, at least 2.
      codebook_size: codes of a group, the product of its levels.
      groups: codes per position; see the module.
    """

    levels: Sequence[int]
    codebook_size: int
    groups: int = 1

    def setup(self):
        _check_groups(self.levels, self.groups, self.codebook_size)

    def _bound(self, vectors: Float[Array, "... dim"]) -> Float[Array, "... dim"]:
        """Squashes `vectors` to the range of their levels, which are integers around 0."""
        levels = np.asarray(self.levels)
        half = (levels - 1) * (1 - _EDGE) / 2
        offset = np.where(levels % 2 == 0, 0.5, 0.0)
        shift = np.arctanh(offset / half)
        return jnp.tanh(vectors + shift.astype(np.float32)) * half - offset

    def __call__(self, vectors: Float[Array, "... dim"]) -> Quantized:
        """Nearest levels of `vectors`, in [-1, 1], with the straight-through gradient."""
        bounded = self._bound(vectors.astype(jnp.float32))
        rounded = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
        middle = np.asarray(self.levels) // 2
        ids = self._ids(jnp.round(bounded))
        zero = jnp.zeros(())
        usage, perplexity = histogram_statistics(code_histogram(ids, self.codebook_size, self.groups))
        return Quantized(rounded / middle, ids, zero, zero, zero, usage, perplexity)

    def _ids(self, rounded: Float[Array, "... dim"]) -> Int[Array, "..."]:
        digits = rounded.astype(jnp.int32) + np.asarray(self.levels) // 2
        return digits_to_ids(digits, self.levels, self.groups)

    def nearest(self, vectors: Float[Array, "... dim"]) -> Int[Array, "..."]:
        """Ids of the nearest levels."""
        return self._ids(jnp.round(self._bound(vectors.astype(jnp.float32))))

    def lookup(self, ids: Int[Array, "..."]) -> Float[Array, "... dim"]:
        """Codes of `ids`, in [-1, 1]."""
        middle = np.asarray(self.levels) // 2
        return (ids_to_digits(ids, self.levels, self.groups) - middle) / middle.astype(np.float32)


class LookupFreeQuantizer(nn.Module):
    """LFQ: each dimension is one bit, its sign (MAGVIT-v2, section 3.1; MaskBit, section 3.1).

    Fields:
      embed_dim: number of bits.
      codebook_size: codes of a group, 2^(embed_dim / groups).
      groups: codes per position; see the module.
      entropy_temperature: of the soft assignment in the entropy loss. The log-odds of a bit z are
        4 z / entropy_temperature.
    """

    embed_dim: int
    codebook_size: int
    groups: int = 1
    entropy_temperature: float = 0.01

    @property
    def levels(self) -> tuple[int, ...]:
        """Two levels for each dimension."""
        return (2,) * self.embed_dim

    def setup(self):
        _check_groups(self.levels, self.groups, self.codebook_size)

    def __call__(self, vectors: Float[Array, "... dim"]) -> Quantized:
        """Signs of `vectors` with the straight-through gradient, and the training losses."""
        vectors = vectors.astype(jnp.float32)
        signs = jnp.where(vectors > 0, 1.0, -1.0)
        ids = self.nearest(vectors)
        usage, perplexity = histogram_statistics(code_histogram(ids, self.codebook_size, self.groups))
        return Quantized(
            codes=vectors + jax.lax.stop_gradient(signs - vectors),
            ids=ids,
            codebook_loss=jnp.zeros(()),
            commitment_loss=jnp.mean((signs - vectors) ** 2),
            entropy_loss=bit_entropy_loss(vectors.reshape(-1, self.embed_dim), self.entropy_temperature),
            usage=usage,
            perplexity=perplexity,
        )

    def nearest(self, vectors: Float[Array, "... dim"]) -> Int[Array, "..."]:
        """Ids of the signs."""
        return digits_to_ids((vectors > 0).astype(jnp.int32), self.levels, self.groups)

    def lookup(self, ids: Int[Array, "..."]) -> Float[Array, "... dim"]:
        """Codes of `ids`, vectors of -1 and 1."""
        return ids_to_digits(ids, self.levels, self.groups) * 2.0 - 1.0


def bit_entropy_loss(vectors: Float[Array, "n bits"], temperature: float) -> Float[Array, ""]:
    """Mean entropy of soft codes minus the entropy of their mean (MAGVIT-v2, eq. 6).

    The soft code of a vector z is softmax(-|z - c|^2 / temperature) over all 2^bits codes c of -1 and 1. It
    is a product over bits, so that its entropy is the sum of the bits' entropies. The mean over vectors is
    one matrix product of the tables of both halves of the bits, without an array (vectors, 2^bits).
    """
    log_one, log_zero = (jax.nn.log_sigmoid(sign * 4 * vectors / temperature) for sign in (1, -1))
    bit_entropies = -(jnp.exp(log_one) * log_one + jnp.exp(log_zero) * log_zero)
    half = vectors.shape[1] // 2

    def table(part: slice) -> Array:
        bits = jnp.stack([log_zero[:, part], log_one[:, part]], axis=-1)
        digits = (np.arange(2 ** bits.shape[1])[:, None] >> np.arange(bits.shape[1])) & 1
        return jnp.exp(sum(bits[:, i, digits[:, i]] for i in range(bits.shape[1])))

    mean = jnp.einsum("na,nb->ab", table(slice(half)), table(slice(half, None)), precision="highest")
    mean = mean / len(vectors)
    return jnp.mean(jnp.sum(bit_entropies, -1)) + jnp.sum(mean * jnp.log(mean + 1e-10))
