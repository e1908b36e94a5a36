"""Quantizers without a table of codes: every dimension is rounded by itself (FSQ, LFQ).

A position's rounded dimensions are the digits of a number. They are read as one code or, in `groups` of
equally many dimensions, as several codes of a smaller vocabulary each (MaskBit, section 3.2): a transformer
then predicts `groups` softmaxes of `codebook_size` entries, each of which it sees often.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

from muse_jax.tokenizers.quantizer import Quantized, code_histogram, histogram_statistics

_EDGE = 1e-3  # FSQ's margin: how far from the outermost level the bounding function ends


def _place_values(levels: Sequence[int], groups: int) -> np.ndarray:
    """What a digit of each dimension is worth in its group's id; the first dimension counts least."""
    grouped = np.reshape(levels, (groups, -1))
    return np.concatenate([np.ones((groups, 1), int), np.cumprod(grouped, axis=1)[:, :-1]], axis=1)


def digits_to_ids(digits: Int[Array, "... dim"], levels: Sequence[int], groups: int) -> Int[Array, "..."]:
    """Ids of digits in `[0, levels)`: int32 `(...)` of one group, `(..., groups)` of several."""
    grouped = rearrange(digits, "... (g d) -> ... g d", g=groups)
    ids = jnp.sum(grouped * _place_values(levels, groups), axis=-1).astype(jnp.int32)
    return ids[..., 0] if groups == 1 else ids


def ids_to_digits(ids: Int[Array, "..."], levels: Sequence[int], groups: int) -> Int[Array, "... dim"]:
    """The inverse of `digits_to_ids`."""
    ids = ids[..., None] if groups == 1 else ids
    digits = ids[..., None] // _place_values(levels, groups) % np.reshape(levels, (groups, -1))
    return rearrange(digits, "... g d -> ... (g d)")


def _check_groups(levels: Sequence[int], groups: int, codebook_size: int) -> None:
    if groups < 1 or len(levels) % groups:
        raise ValueError(
            f"{len(levels)} dimensions cannot be read as {groups} equal groups: choose a divisor."
        )
    sizes = np.prod(np.reshape(levels, (groups, -1)), axis=1).tolist()
    if set(sizes) != {codebook_size}:
        raise ValueError(
            f"codebook_size is {codebook_size}, but the levels {tuple(levels)} in {groups} groups give "
            f"{sizes} codes: set it to that, which must be the same in every group."
        )


class FiniteScalarQuantizer(nn.Module):
    """FSQ: bounds every dimension and rounds it to one of its levels (Mentzer et al., ICLR 2024, section 3).

    The published `bound` shifts even numbers of levels by tan(1 / (2 h)) where its inverse, atanh, is meant;
    here it is atanh, so that a zero vector stays in the middle. There is nothing to learn, hence all losses
    are 0.

    levels: of each dimension, at least 2.
    groups, codebook_size: see the module; a group's levels multiply to `codebook_size`.
    """

    levels: Sequence[int]
    codebook_size: int
    groups: int = 1

    def setup(self):
        _check_groups(self.levels, self.groups, self.codebook_size)

    def _bound(self, vectors: Float[Array, "... dim"]) -> Float[Array, "... dim"]:
        """`vectors` squashed to the range of their levels, which are whole numbers around 0."""
        levels = np.asarray(self.levels)
        half = (levels - 1) * (1 - _EDGE) / 2
        offset = np.where(levels % 2 == 0, 0.5, 0.0)
        shift = np.arctanh(offset / half)
        return jnp.tanh(vectors + shift.astype(np.float32)) * half - offset

    def __call__(self, vectors: Float[Array, "... dim"]) -> Quantized:
        """The nearest levels of `vectors`, in [-1, 1], with the straight-through gradient."""
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
        """The codes of `ids`."""
        middle = np.asarray(self.levels) // 2
        return (ids_to_digits(ids, self.levels, self.groups) - middle) / middle.astype(np.float32)


class LookupFreeQuantizer(nn.Module):
    """LFQ: every dimension is one bit, its sign (MAGVIT-v2, section 3.1; MaskBit, section 3.1).

    embed_dim: the number of bits.
    groups, codebook_size: see the module; `codebook_size` is 2^(embed_dim / groups).
    entropy_temperature: of the soft assignment inside the entropy loss, whose sharpness is 4 |z| / it.
    """

    embed_dim: int
    codebook_size: int
    groups: int = 1
    entropy_temperature: float = 0.01

    @property
    def levels(self) -> tuple[int, ...]:
        """Two of each dimension."""
        return (2,) * self.embed_dim

    def setup(self):
        _check_groups(self.levels, self.groups, self.codebook_size)

    def __call__(self, vectors: Float[Array, "... dim"]) -> Quantized:
        """The signs of `vectors` with the straight-through gradient, and the losses that training needs."""
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
        """The codes of `ids`, of -1 and 1."""
        return ids_to_digits(ids, self.levels, self.groups) * 2.0 - 1.0


def bit_entropy_loss(vectors: Float[Array, "n bits"], temperature: float) -> Float[Array, ""]:
    """Mean entropy of each vector's soft code less the entropy of their mean (MAGVIT-v2, eq. 6).

    The soft code is softmax(-|z - c|^2 / temperature) over all 2^bits codes c of -1 and 1. It is a product
    over bits, whose entropy is the sum of theirs; and the mean over vectors of the whole table is one matrix
    product of the tables of both halves of the bits, which no batch of 2^bits probabilities is needed for.
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
