"""CogLM's vocabulary and sequences: tokens, ranks, labels and where the loss counts (CogView2, section 3.1).

Every sequence has the layout of `CogLM`: text slots, `<start_of_image>`, image tokens row by row. Labels are
the next token. The attention rule, which ranks express (`muse_jax.nn.rank_attention`): context attends
to context both ways, a predicted region attends to all context and causally to itself. A run of a region
begins with a token that is given, the one before the first that is predicted.
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
"""Lengths of predicted spans of text are Poisson(3): how probable it is that one is at most 0, 1, .. 15."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """One numbering of all tokens: image codes, then text pieces, then `SPECIAL_TOKENS`.

    `pad` follows the text pieces, and a caption: drawn after the last piece, it ends the text. A
    sentencepiece model may have fewer pieces than there is room for.
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
        """Pieces of sentencepiece, ids from 0, in this numbering; `pad` where there are none."""
        return jnp.where(text_mask, text + self.image_codes, self.pad)


@struct.dataclass
class Sequence:
    """A batch of sequences, whole: text slots, `<start_of_image>`, image tokens."""

    tokens: Int[Array, "batch length"]
    ranks: Int[Array, "batch length"]
    labels: Int[Array, "batch length"]
    loss: Bool[Array, "batch length"]
    """Where the label is to be predicted."""


def text_to_image(
    vocabulary: Vocabulary,
    text: Int[Array, "batch text"],
    text_mask: Bool[Array, "batch text"],
    image: Int[Array, "batch tokens"],
    drawn: Bool[Array, "batch tokens"] | None = None,
) -> Sequence:
    """An image after its caption; the tokens that are `drawn` (None: all of them) are to be predicted.

    The text sees itself both ways, and nothing else. Image tokens that are neither drawn nor left of a drawn
    one are context, which sees itself and the text. `<start_of_image>` is left of the first token.

    Args:
      text: pieces of sentencepiece, ids from 0; one less than the network's text slots.
      image: codes; those at places that are sampled only affect the labels.
    """
    drawn = jnp.ones(image.shape, bool) if drawn is None else drawn
    before = jnp.pad(drawn, ((0, 0), (0, 1)))  # <start_of_image> and image tokens: the next one is drawn
    region = before | jnp.pad(drawn, ((0, 0), (1, 0)))
    order = jnp.arange(region.shape[1])
    text_ranks = jnp.pad(jnp.where(text_mask, 0, -1), ((0, 0), (0, 1)), constant_values=-1)
    return _sequence(
        vocabulary,
        jnp.pad(vocabulary.words(text, text_mask), ((0, 0), (0, 1)), constant_values=vocabulary.pad),
        text_ranks,
        jnp.zeros(text_ranks.shape, bool),
        image,
        jnp.where(region, 2 + order, 1),
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
    """A caption after its image: `<start_of_text>`, the pieces and `pad`, causal, seeing the whole image.

    Args:
      text, image: as for `text_to_image`.
      region: image tokens that are predicted too, causal among themselves (None: none), see `draw_patches`.
      loss: of them, where the next token is to be predicted.
    """
    batch, tokens = image.shape
    pieces = vocabulary.words(text, text_mask)
    start = jnp.full((batch, 1), vocabulary.start_of_text)
    there = jnp.pad(text_mask, ((0, 0), (1, 0)), constant_values=True)
    # The text comes last in order: after all of the image, whichever of it is predicted.
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
    """The text without an image: a region of spans is causal, the rest context (`draw_spans`)."""
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
    """Joins the two parts; `image_ranks` and `image_loss` begin with `<start_of_image>`."""
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
    """Of each sample the sequence that `kind` numbers."""
    pick = lambda *leaves: jnp.stack(leaves)[kind, jnp.arange(len(kind))]  # noqa: E731
    return jax.tree.map(pick, *sequences)


def draw_patches(
    key: Array, batch: int, grid: tuple[int, int], patch: int, share: float
) -> tuple[Bool[Array, "batch tokens"], Bool[Array, "batch tokens"]]:
    """Region and loss of `share` worth of `patch x patch` squares at random places, which may overlap.

    In each square all but the last column predict the token to their right: `patch * (patch - 1)` of it. A
    square may lie anywhere; the published program never begins one in the last row or column that has room.
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
    """Region and loss of spans that predict at most `share` of each text, at least one token of it.

    Lengths are Poisson(3), at least 1, and the places are uniform; no two spans touch. A span's region has
    the given token before it too.
    """
    length_key, place_key = jax.random.split(key)
    batch, slots = text_mask.shape
    length = jnp.sum(text_mask, axis=1, keepdims=True)
    budget = jnp.maximum(share * length, 1.0)
    most = max(1, int(share * slots))
    uniform = jax.random.uniform(length_key, (batch, most))
    spans = jnp.maximum(1, jnp.searchsorted(jnp.asarray(_SPAN_CDF), uniform))
    # Short texts have room for no more than their budget.
    spans = jnp.minimum(spans, jnp.floor(budget).astype(spans.dtype))
    total = jnp.cumsum(spans, axis=1)
    kept = (total <= budget) & (length > 1)
    spans = jnp.where(kept, spans, 0)
    # Distinct places in the text without its spans, in order; then each span pushes the later ones on.
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
