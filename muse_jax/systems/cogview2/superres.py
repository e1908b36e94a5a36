"""CogView2's super-resolution networks, both initialized from a CogLM (CogView2, section 3.2 and 3.3).

The direct one predicts all tokens of the fine grid at once from the text and a coarse image; the iterative
one predicts some of them from the others and the text.
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
    """`Attend` for two streams: CogLM's sequence, by rank, and fine tokens, which attend to two windows.

    One window is on the fine tokens, the other on the coarse image around the position of the fine token.
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
        out = local_attention(
            *(_tokens_first(part) for part in fine),
            grid=self.grid,
            window=self.window,
            coarse=LocalKeys(key, value, self.coarse_grid, self.coarse_window),
        )
        return (read, _heads_first(out)), None


@dataclasses.dataclass(frozen=True)
class IterativeAttention:
    """`Attend` for text, which attends to itself, and an image, which attends to a window and the text."""

    grid: Grid
    window: Grid

    def __call__(
        self, streams: tuple[QKV, ...], memory: None, text_mask: Bool[Array, "batch text"]
    ) -> tuple[tuple[Array, ...], None]:
        text, image = streams
        ranks = jnp.where(text_mask, 0, -1)
        (read,), _ = attend_by_rank((text,), None, Ranks(ranks, ranks, jnp.zeros(())))
        _, key, value = (_tokens_first(part) for part in text)
        out = local_attention(
            *(_tokens_first(part) for part in image),
            grid=self.grid,
            window=self.window,
            extra_key=key,
            extra_value=value,
            extra_mask=text_mask,
        )
        return (read, _heads_first(out)), None


def _tokens_first(x: Array) -> Array:
    return rearrange(x, "b h n d -> b n h d")


def _heads_first(x: Array) -> Array:
    return rearrange(x, "b n h d -> b h n d")


class DirectSuperRes(CogLMBase):
    """Logits of all fine tokens at once, from the text and the coarse image (CogView2, section 3.2).

    The sequence is processed with the frozen weights of CogLM. All fine tokens are input as
    `<start_of_image>`; they have their own position embeddings and attention weights (`split_params`), and
    share norms, MLPs and tables with CogLM. Nothing in the sequence attends to them.

    Fields are those of `CogLMBase` for the coarse image, and:
      factor: ratio of the sides of the fine and the coarse grid.
      window, coarse_window: odd sizes of a fine token's windows on the fine and the coarse tokens.
    """

    factor: int = 3
    window: Grid = (9, 5)
    coarse_window: Grid = (5, 5)

    streams: ClassVar[tuple[str, ...]] = ("attention", "fine_attention")

    @property
    def fine_grid(self) -> Grid:
        """Height and width of the fine grid."""
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
        """Float32 logits of the fine tokens, row by row."""
        return self.logits(self.hidden(tokens, ranks, deterministic))

    def hidden(
        self,
        tokens: Int[Array, "batch length"],
        ranks: Int[Array, "batch length"],
        deterministic: bool = True,
    ) -> Float[Array, "batch fine width"]:
        """Features before the output projection.

        `tokens` and `ranks` come from `text_to_image` with an empty region: the text attends to itself, the
        image to everything.
        """
        self._check(tokens, ranks)
        slots = jnp.broadcast_to(jnp.arange(self.length), tokens.shape)
        start = self.embedding[tokens[:, self.text_length]]  # the sequence's <start_of_image>
        fine = (start[:, None] + self.fine_positions).astype(self.dtype)
        xs = tuple(self.drop(x, deterministic=deterministic) for x in (self._embed(tokens, slots), fine))
        attend = DirectAttention(self.fine_grid, self.window, self.grid, self.coarse_window)
        shared = Ranks(ranks, ranks, jnp.zeros(()))
        (_, x), _ = self.transformer(xs, attend, shared, None, deterministic)
        return x


class IterativeSuperRes(CogLMBase):
    """Logits of each token of an image given the text and the tokens around it (CogView2, section 3.3).

    Masked tokens are input as `<start_of_image>`. Text and image share all weights.

    Fields are those of `CogLMBase`, with the fine grid as `grid` and pieces in all text slots, and:
      window: odd sizes of a token's window on the image.
    """

    window: Grid = (9, 5)

    streams: ClassVar[tuple[str, ...]] = ("attention", "attention")

    @property
    def text_pieces(self) -> int:
        """Maximum number of pieces of a text, which is the number of text slots."""
        return self.text_length

    def example_inputs(self) -> tuple[Array, ...]:
        """Smallest inputs, for initialization."""
        text = jnp.zeros((1, self.text_length), jnp.int32)
        return jnp.zeros((1, self.image_tokens), jnp.int32), text, text > 0

    def __call__(
        self,
        tokens: Int[Array, "batch tokens"],
        text: Int[Array, "batch text"],
        text_mask: Bool[Array, "batch text"],
        deterministic: bool = True,
    ) -> Float[Array, "batch tokens vocab"]:
        """Float32 logits of the image's tokens, row by row."""
        return self.logits(self.hidden(tokens, text, text_mask, deterministic))

    def hidden(
        self,
        tokens: Int[Array, "batch tokens"],
        text: Int[Array, "batch text"],
        text_mask: Bool[Array, "batch text"],
        deterministic: bool = True,
    ) -> Float[Array, "batch tokens width"]:
        """Features before the output projection. `text` has ids of the vocabulary."""
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
    """Splits parameters of a `DirectSuperRes` into those of its CogLM and its own, which are trained."""
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
    """Inverse of `split_params`."""
    transformer = coglm["transformer"]
    layers = {**transformer["layers"], **own["transformer"]["layers"]}
    return {**coglm, **own, "transformer": {**transformer, "layers": layers}}


def direct_from_coglm(coglm: Mapping[str, Any], grid: Grid, factor: int) -> dict[str, Any]:
    """Initial own parameters of a `DirectSuperRes`: the CogLM's attention weights and tiled positions.

    Args:
      coglm: parameters of the CogLM.
      grid: grid of its image tokens, whose positions are the last rows of its table.
      factor: ratio of the sides of the fine and the coarse grid.
    """
    return {
        "fine_position_embedding": _tiled(coglm, grid, factor),
        "transformer": {"layers": {"fine_attention": coglm["transformer"]["layers"]["attention"]}},
    }


def iterative_from_coglm(coglm: Mapping[str, Any], grid: Grid, factor: int) -> dict[str, Any]:
    """Initial parameters of an `IterativeSuperRes`: those of the CogLM, with tiled image positions."""
    rest = coglm["position_embedding"][: -math.prod(grid)]
    table = jnp.concatenate([rest, _tiled(coglm, grid, factor)])
    return {**coglm, "position_embedding": table}


def _tiled(coglm: Mapping[str, Any], grid: Grid, factor: int) -> Array:
    return tile_positions(coglm["position_embedding"][-math.prod(grid) :], grid, factor)
