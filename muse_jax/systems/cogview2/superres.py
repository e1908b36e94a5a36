"""CogView2's super-resolution networks, both initialized from a CogLM (CogView2, section 3.2 and 3.3).

The direct one draws all tokens of the fine grid at once from the text and a coarse image; the iterative one
redraws some of them, given the rest and the text.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from muse_jax.nn.linear import EMBED_STD
from muse_jax.nn.rank_attention import Ranks, attend_by_rank
from muse_jax.nn.sandwich import QKV
from muse_jax.systems.cogview2.coglm import CogLMBase, tile_positions
from pallas_kernels.local_attention import LocalKeys, local_attention

Grid = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class DirectAttention:
    """`Attend` of two streams: CogLM's sequence, by rank, and fine tokens, which see two windows.

    One window is on the fine tokens, one on the sequence's image around the place that a fine token covers.
    """

    grid: Grid
    window: Grid
    coarse_grid: Grid
    coarse_window: Grid

    def __call__(
        self, streams: tuple[QKV, ...], memory: None, ranks: Ranks
    ) -> tuple[tuple[Array, ...], None]:
        sequence, fine = streams
        (read,), _ = attend_by_rank((sequence,), None, ranks)
        image = math.prod(self.coarse_grid)
        _, key, value = (_tokens_first(part[:, :, -image:]) for part in sequence)
        drawn = local_attention(
            *(_tokens_first(part) for part in fine),
            grid=self.grid,
            window=self.window,
            coarse=LocalKeys(key, value, self.coarse_grid, self.coarse_window),
        )
        return (read, _heads_first(drawn)), None


@dataclasses.dataclass(frozen=True)
class IterativeAttention:
    """`Attend` of two streams: text, which sees itself, and an image, which sees a window and the text."""

    grid: Grid
    window: Grid

    def __call__(
        self, streams: tuple[QKV, ...], memory: None, text_mask: Bool[Array, "batch text"]
    ) -> tuple[tuple[Array, ...], None]:
        text, image = streams
        ranks = jnp.where(text_mask, 0, -1)
        (read,), _ = attend_by_rank((text,), None, Ranks(ranks, ranks, jnp.zeros(())))
        _, key, value = (_tokens_first(part) for part in text)
        drawn = local_attention(
            *(_tokens_first(part) for part in image),
            grid=self.grid,
            window=self.window,
            extra_key=key,
            extra_value=value,
            extra_mask=text_mask,
        )
        return (read, _heads_first(drawn)), None


def _tokens_first(x: Array) -> Array:
    return rearrange(x, "b h n d -> b n h d")


def _heads_first(x: Array) -> Array:
    return rearrange(x, "b n h d -> b h n d")


class DirectSuperRes(CogLMBase):
    """Logits of all fine tokens at once, from the text and the coarse image (CogView2, section 3.2).

    The sequence is CogLM's, of whole weights that stay as they are. The fine tokens all come in as
    `<start_of_image>`, with positions and attention weights of their own (`split_params`), and share norms,
    MLPs and tables. Nothing in the sequence sees them.

    Fields as in `CogLMBase`, of the coarse image, and:
      factor: fine tokens along a side over coarse ones.
      window, coarse_window: what a fine token sees of the fine and of the coarse tokens; odd.
    """

    factor: int = 3
    window: Grid = (9, 5)
    coarse_window: Grid = (5, 5)

    streams: ClassVar[tuple[str, ...]] = ("attention", "fine_attention")

    @property
    def fine_grid(self) -> Grid:
        """Height and width of the fine tokens."""
        return self.grid[0] * self.factor, self.grid[1] * self.factor

    def setup(self):
        super().setup()
        positions = nn.with_logical_partitioning(nn.initializers.normal(EMBED_STD), (None, "embed"))
        rows = self.image_tokens * self.factor**2
        self.fine_positions = self.param("fine_position_embedding", positions, (rows, self.width))

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        ranks: Int[Array, "batch length"],
        deterministic: bool = True,
    ) -> Float[Array, "batch fine vocab"]:
        """Float32 logits of the fine tokens, each at its own place, row by row."""
        return self.logits(self.hidden(tokens, ranks, deterministic))

    def hidden(
        self,
        tokens: Int[Array, "batch length"],
        ranks: Int[Array, "batch length"],
        deterministic: bool = True,
    ) -> Float[Array, "batch fine width"]:
        """The features that the output table is multiplied with.

        `tokens` and `ranks` are of `text_to_image` with nothing drawn: the text sees itself, the image all.
        """
        self._check(tokens, ranks)
        slots = jnp.broadcast_to(jnp.arange(self.length), tokens.shape)
        start = self.embedding[tokens[:, self.text_length]]  # the sequence's own <start_of_image>
        fine = (start[:, None] + self.fine_positions).astype(self.dtype)
        xs = tuple(self.drop(x, deterministic=deterministic) for x in (self._embed(tokens, slots), fine))
        attend = DirectAttention(self.fine_grid, self.window, self.grid, self.coarse_window)
        shared = Ranks(ranks, ranks, jnp.zeros(()))
        (_, x), _ = self.transformer(xs, attend, shared, None, deterministic)
        return x


class IterativeSuperRes(CogLMBase):
    """Logits of each token of an image, given the text and the tokens around it (CogView2, section 3.3).

    Tokens that are to be drawn come in as `<start_of_image>`. Text and image share all weights.

    Fields as in `CogLMBase`, where `grid` is the fine one and all text slots hold pieces, and:
      window: what a token sees of the image; odd.
    """

    window: Grid = (9, 5)

    streams: ClassVar[tuple[str, ...]] = ("attention", "attention")

    @property
    def text_pieces(self) -> int:
        """Pieces of a text: as many as there are slots."""
        return self.text_length

    def example_inputs(self) -> tuple[Array, ...]:
        """Inputs of the smallest size, to initialize parameters with."""
        text = jnp.zeros((1, self.text_length), jnp.int32)
        return jnp.zeros((1, self.image_tokens), jnp.int32), text, text > 0

    def __call__(
        self,
        tokens: Int[Array, "batch tokens"],
        text: Int[Array, "batch text"],
        text_mask: Bool[Array, "batch text"],
        deterministic: bool = True,
    ) -> Float[Array, "batch tokens vocab"]:
        """Float32 logits of the image's tokens, each at its own place, row by row."""
        return self.logits(self.hidden(tokens, text, text_mask, deterministic))

    def hidden(
        self,
        tokens: Int[Array, "batch tokens"],
        text: Int[Array, "batch text"],
        text_mask: Bool[Array, "batch text"],
        deterministic: bool = True,
    ) -> Float[Array, "batch tokens width"]:
        """The features that the output table is multiplied with. `text` has the ids of the vocabulary."""
        wanted = {"tokens": self.image_tokens, "text": self.text_length, "text_mask": self.text_length}
        for (name, count), value in zip(wanted.items(), (tokens, text, text_mask), strict=True):
            if value.shape != (len(tokens), count):
                raise ValueError(
                    f"{name} has shape {value.shape}, but {self.text_length} text slots and a grid of "
                    f"{self.grid[0]}x{self.grid[1]} tokens need {(len(tokens), count)}."
                )
        first = self.text_length + 1
        both = ((text, jnp.arange(self.text_length)), (tokens, jnp.arange(first, first + self.image_tokens)))
        xs = tuple(self.drop(self._embed(*x), deterministic=deterministic) for x in both)
        attend = IterativeAttention(self.grid, self.window)
        (_, x), _ = self.transformer(xs, attend, text_mask, None, deterministic)
        return x


def split_params(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A `DirectSuperRes`'s parameters: those of its CogLM, and its own, which are trained."""
    transformer = params["transformer"]
    layers = {name: leaf for name, leaf in transformer["layers"].items() if name != "fine_attention"}
    coglm = {name: leaf for name, leaf in params.items() if name != "fine_position_embedding"}
    coglm["transformer"] = {**transformer, "layers": layers}
    own = {
        "fine_position_embedding": params["fine_position_embedding"],
        "transformer": {"layers": {"fine_attention": transformer["layers"]["fine_attention"]}},
    }
    return coglm, own


def join_params(coglm: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `split_params`."""
    transformer = coglm["transformer"]
    layers = {**transformer["layers"], **own["transformer"]["layers"]}
    return {**coglm, **own, "transformer": {**transformer, "layers": layers}}


def direct_from_coglm(coglm: Mapping[str, Any], grid: Grid, factor: int) -> dict[str, Any]:
    """The own parameters a `DirectSuperRes` starts with: the CogLM's attention, and its positions tiled.

    Args:
      grid: of the CogLM's image tokens, whose positions are the last rows of its table.
    """
    return {
        "fine_position_embedding": _tiled(coglm, grid, factor),
        "transformer": {"layers": {"fine_attention": coglm["transformer"]["layers"]["attention"]}},
    }


def iterative_from_coglm(coglm: Mapping[str, Any], grid: Grid, factor: int) -> dict[str, Any]:
    """The parameters an `IterativeSuperRes` starts with: the CogLM's, the image's positions tiled."""
    rest = coglm["position_embedding"][: -math.prod(grid)]
    table = jnp.concatenate([rest, _tiled(coglm, grid, factor)])
    return {**coglm, "position_embedding": table}


def _tiled(coglm: Mapping[str, Any], grid: Grid, factor: int) -> Array:
    return tile_positions(coglm["position_embedding"][-math.prod(grid) :], grid, factor)
