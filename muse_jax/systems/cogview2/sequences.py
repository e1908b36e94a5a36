"""CogLM's vocabulary and sequences: tokens, ranks, labels and loss masks (CogView2, section 3.1).

Every sequence has the layout of `CogLM`: text slots, `<start_of_image>`, image tokens row by row. Labels are
the next tokens. Ranks express the attention rule (`muse_jax.nn.rank_attention`): context attends to context
in both directions, and a predicted region attends to all context and causally to itself. Each run of a region
starts with a given token, the one before the first predicted token.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import struct
from jaxtyping import Array, Bool, Int
from scipy.special import pdtr

SPECIAL_TOKENS = ("<pad>", "<start_of_image>", "<start_of_text>")
_SPAN_CDF = pdtr(np.arange(16), 3).astype(np.float32)
"""Cumulative probabilities of Poisson(3), the length of predicted spans of text, at 0, 1, .. 15."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Numbering of all tokens: image codes, then text pieces, then `SPECIAL_TOKENS`.

    `pad` marks the end of a caption when captions are sampled. A sentencepiece model may have fewer pieces
    than the vocabulary has room for.
    """

    image_codes: int
    size: int

    @property
    def text_pieces(self) -> int:
        """Number of text pieces that the vocabulary has room for."""
        return self.size - self.image_codes - len(SPECIAL_TOKENS)

    @property
    def pad(self) -> int:
        return self.image_codes + self.text_pieces

    @property
    def start_of_image(self) -> int:
        return self.pad + 1

    @property
    def start_of_text(self) -> int:
        return self.pad + 2

    def words(
        self, text: Int[Array, "batch text"], text_mask: Bool[Array, "batch text"]
    ) -> Int[Array, "batch text"]:
        """Token ids of sentencepiece ids; `pad` where `text_mask` is False."""
        return jnp.where(text_mask, text + self.image_codes, self.pad)


@struct.dataclass
class Sequence:
    """Batch of sequences: text slots, `<start_of_image>`, image tokens."""

    tokens: Int[Array, "batch length"]
    ranks: Int[Array, "batch length"]
    labels: Int[Array, "batch length"]
    loss: Bool[Array, "batch length"]
    """True where the label is predicted."""


def text_to_image(
    vocabulary: Vocabulary,
    text: Int[Array, "batch text"],
    text_mask: Bool[Array, "batch text"],
    image: Int[Array, "batch tokens"],
    region: Bool[Array, "batch tokens"] | None = None,
) -> Sequence:
    """An image after its caption, for predicting the image tokens in `region` (None: all).

    The text attends to itself in both directions and to nothing else. Image tokens that are neither in the
    region nor directly before a token of it are context, which attends to itself and the text.
    `<start_of_image>` is directly before the first image token.

    Args:
      vocabulary: of the network.
      text: ids of sentencepiece; one less than the network's text slots.
      text_mask: True for pieces, False for padding.
      image: codes; those in the region only affect the labels.
      region: True for predicted image tokens.
    """
    region = jnp.ones(image.shape, bool) if region is None else region
    before = jnp.pad(region, ((0, 0), (0, 1)))  # <start_of_image> and image tokens: the next one is predicted
    causal = before | jnp.pad(region, ((0, 0), (1, 0)))
    order = jnp.arange(causal.shape[1])
    text_ranks = jnp.pad(jnp.where(text_mask, 0, -1), ((0, 0), (0, 1)), constant_values=-1)
    return _sequence(
        vocabulary,
        jnp.pad(vocabulary.words(text, text_mask), ((0, 0), (0, 1)), constant_values=vocabulary.pad),
        text_ranks,
        jnp.zeros(text_ranks.shape, bool),
        image,
        jnp.where(causal, 2 + order, 1),
        before,
    )


def image_to_text(
    vocabulary: Vocabulary,
    text: Int[Array, "batch text"],
    text_mask: Bool[Array, "batch text"],
    image: Int[Array, "batch tokens"],
    region: Bool[Array, "batch tokens"] | None = None,
    loss: Bool[Array, "batch tokens"] | None = None,
) -> Sequence:
    """A caption after its image: `<start_of_text>`, pieces and `pad`, causal, attending to the whole image.

    Args:
      vocabulary, text, text_mask, image: see `text_to_image`.
      region: True for image tokens that are predicted too, causally among themselves, see `draw_patches`;
        None: none.
      loss: True for tokens of the region whose next token is predicted.
    """
    batch, tokens = image.shape
    pieces = vocabulary.words(text, text_mask)
    start = jnp.full((batch, 1), vocabulary.start_of_text)
    there = jnp.pad(text_mask, ((0, 0), (1, 0)), constant_values=True)
    # The text comes last, after the whole image, including its predicted part.
    text_ranks = jnp.where(there, 1 + tokens + jnp.arange(there.shape[1]), -1)
    order = 1 + jnp.arange(tokens)
    image_ranks = jnp.zeros(image.shape, jnp.int32) if region is None else jnp.where(region, order, 0)
    image_loss = jnp.zeros(image.shape, bool) if loss is None else loss
    return _sequence(
        vocabulary,
        jnp.concatenate([start, pieces], axis=1),
        text_ranks,
        there,
        image,
        jnp.pad(image_ranks, ((0, 0), (1, 0)), constant_values=-1),
        jnp.pad(image_loss, ((0, 0), (1, 0))),
    )


def text_only(
    vocabulary: Vocabulary,
    text: Int[Array, "batch text"],
    text_mask: Bool[Array, "batch text"],
    image_tokens: int,
    region: Bool[Array, "batch text"],
    loss: Bool[Array, "batch text"],
) -> Sequence:
    """A text without an image; a region of spans is causal, the rest is context (see `draw_spans`)."""
    batch = len(text)
    ranks = jnp.where(text_mask, jnp.where(region, 1 + jnp.arange(text.shape[1]), 0), -1)
    image = jnp.full((batch, image_tokens), vocabulary.pad)
    absent = jnp.full((batch, image_tokens + 1), -1)
    return _sequence(
        vocabulary,
        jnp.pad(vocabulary.words(text, text_mask), ((0, 0), (0, 1)), constant_values=vocabulary.pad),
        jnp.pad(ranks, ((0, 0), (0, 1)), constant_values=-1),
        jnp.pad(loss & text_mask, ((0, 0), (0, 1))),
        image,
        absent,
        jnp.zeros(absent.shape, bool),
    )


def _sequence(vocabulary, text, text_ranks, text_loss, image, image_ranks, image_loss) -> Sequence:
    """Joins text and image; `image_ranks` and `image_loss` start with `<start_of_image>`."""
    start = jnp.full((len(image), 1), vocabulary.start_of_image)
    end = jnp.full((len(image), 1), vocabulary.pad)
    both = lambda left, right: jnp.concatenate([left, right], axis=1)  # noqa: E731
    return Sequence(
        tokens=jnp.concatenate([text, start, image], axis=1).astype(jnp.int32),
        ranks=both(text_ranks, image_ranks).astype(jnp.int32),
        labels=jnp.concatenate([text[:, 1:], end, image, end], axis=1).astype(jnp.int32),
        loss=both(text_loss, image_loss),
    )


def select(kind: Int[Array, " batch"], sequences: tuple[Sequence, ...]) -> Sequence:
    """Selects `sequences[kind[i]]` for each sample i."""
    pick = lambda *leaves: jnp.stack(leaves)[kind, jnp.arange(len(kind))]  # noqa: E731
    return jax.tree.map(pick, *sequences)


def draw_patches(
    key: Array, batch: int, grid: tuple[int, int], patch: int, share: float
) -> tuple[Bool[Array, "batch tokens"], Bool[Array, "batch tokens"]]:
    """Region and loss mask of random squares of `patch x patch` tokens, which may overlap.

    The squares cover `share` of the grid, if overlaps are ignored. In each square, all columns but the last
    predict the token to their right: `patch * (patch - 1)` tokens. A square may be anywhere; the published
    program never starts one in the last possible row or column.
    """
    rows, columns = (side - patch + 1 for side in grid)
    count = int(share * grid[0] * grid[1] / patch**2)
    lottery = jax.random.uniform(key, (batch, rows * columns))
    chosen = jax.lax.top_k(lottery, count)[1]
    corner = jnp.zeros(lottery.shape, bool).at[jnp.arange(batch)[:, None], chosen].set(True)
    corner = rearrange(corner, "b (h w) -> b h w", h=rows)

    def cover(width: int) -> Array:
        shifted = [
            jnp.pad(corner, ((0, 0), (i, patch - 1 - i), (j, patch - 1 - j)))
            for i in range(patch)
            for j in range(width)
        ]
        return rearrange(jnp.stack(shifted).any(axis=0), "b h w -> b (h w)")

    return cover(patch), cover(patch - 1)


def draw_spans(
    key: Array, text_mask: Bool[Array, "batch text"], share: float = 0.15
) -> tuple[Bool[Array, "batch text"], Bool[Array, "batch text"]]:
    """Region and loss mask of random spans that predict at most `share` of each text, but at least one token.

    Lengths are Poisson(3), at least 1, and positions are uniform; spans never touch. The region of a span
    includes the given token before it.
    """
    length_key, place_key = jax.random.split(key)
    batch, slots = text_mask.shape
    length = jnp.sum(text_mask, axis=1, keepdims=True)
    budget = jnp.maximum(share * length, 1.0)
    most = max(1, int(share * slots))
    uniform = jax.random.uniform(length_key, (batch, most))
    spans = jnp.maximum(1, jnp.searchsorted(jnp.asarray(_SPAN_CDF), uniform))
    # No span may be longer than the budget of a short text.
    spans = jnp.minimum(spans, jnp.floor(budget).astype(spans.dtype))
    total = jnp.cumsum(spans, axis=1)
    kept = (total <= budget) & (length > 1)
    spans = jnp.where(kept, spans, 0)
    # Distinct positions in the text without its spans, in order; then each span shifts the later ones.
    free = length - jnp.sum(spans, axis=1, keepdims=True)
    lottery = jnp.where(jnp.arange(slots) < free, jax.random.uniform(place_key, (batch, slots)), jnp.inf)
    places = jnp.argsort(lottery, axis=1)[:, :most]
    places = jnp.sort(jnp.where(kept, places, slots), axis=1)
    start = places + jnp.cumsum(spans, axis=1) - spans
    inside = jnp.arange(slots)[:, None] - start[:, None, :]
    covers = lambda extra: jnp.any(  # noqa: E731
        (inside >= 0) & (inside < spans[:, None, :] + extra) & kept[:, None, :], axis=-1
    )
    return covers(1) & text_mask, covers(0) & text_mask
