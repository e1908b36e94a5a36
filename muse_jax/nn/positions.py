"""Tokens on a grid of any number of axes: embeddings with a positional table per axis, and shape checks."""

import functools
import math
import operator
from typing import Any

import jax.numpy as jnp
from einops import rearrange, repeat
from flax import linen as nn
from jaxtyping import Array, Float, Int

from muse_jax.nn.linear import EMBED_STD
from muse_jax.nn.norms import RMSNorm

_AXES = ("column", "row", "frame")  # from the last axis of a grid to the first


class TokenGrid(nn.Module):
    """Token embeddings plus one learned positional table per axis of the grid, normalized (MaskGIT).

    The tied output head reads `embedding` too. It has `vocab_size + 1` rows, the last for the mask token.
    With several groups, each has a table of its own, `(groups, vocab_size + 1, width)`, and the embeddings of
    a position's tokens are summed (MaskBit). The positional tables are the parameters `frame_positions`,
    `row_positions` and `column_positions` for video `(s, h, w)`, the last two for images `(h, w)`.

    Fields:
      vocab_size: number of codes.
      grid: sizes of the grid, in raster order of the tokens.
      width: of the embeddings.
      dropout: rate on the embeddings, from the rng stream `dropout`.
      dtype: of the output.
      groups: tokens per position, side by side in the flat sequence.
    """

    vocab_size: int
    grid: tuple[int, ...]
    width: int
    dropout: float = 0.0
    dtype: Any = jnp.float32
    groups: int = 1

    def setup(self):
        normal = nn.initializers.normal(EMBED_STD)
        table: tuple[int, ...] = (self.vocab_size + 1, self.width)
        names: tuple[str | None, ...] = ("vocab", "embed")
        if self.groups > 1:
            table, names = (self.groups, *table), (None, *names)
        self.embedding = self.param("embedding", nn.with_logical_partitioning(normal, names), table)
        self.positions = [
            self.param(
                f"{_axis_name(len(self.grid) - 1 - axis)}_positions",
                nn.with_logical_partitioning(normal, (None, "embed")),
                (size, self.width),
            )
            for axis, size in enumerate(self.grid)
        ]
        self.norm = RMSNorm(self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        tokens: Int[Array, "batch tokens"],
        extra: Float[Array, "batch positions width"] | float = 0.0,
        deterministic: bool = True,
    ) -> Float[Array, "batch positions width"]:
        """Embeds token ids in `[0, vocab_size]`; `extra` is added before the norm."""
        x = self._embed(tokens) + self._positions() + extra
        return self.drop(self.norm(x), deterministic=deterministic)

    def _embed(self, tokens: Int[Array, "batch tokens"]) -> Float[Array, "batch positions width"]:
        if self.groups == 1:
            return self.embedding[tokens]
        grouped = rearrange(tokens, "b (n g) -> b n g", g=self.groups)
        return jnp.sum(self.embedding[jnp.arange(self.groups), grouped], axis=2)

    def _positions(self) -> Float[Array, "positions width"]:
        axes = len(self.grid)
        tables = [
            jnp.expand_dims(table, [other for other in range(axes) if other != axis])
            for axis, table in enumerate(self.positions)
        ]
        return functools.reduce(operator.add, tables).reshape(-1, self.width)


def _axis_name(from_last: int) -> str:
    return _AXES[from_last] if from_last < len(_AXES) else f"axis_{from_last}"


def repeat_grid(
    x: Float[Array, "batch low_positions width"], low_grid: tuple[int, ...], grid: tuple[int, ...]
) -> Float[Array, "batch positions width"]:
    """Nearest-neighbour upsampling of states on `low_grid` to `grid`, whose sizes are its multiples."""
    axes = range(len(grid))
    low = " ".join(f"n{axis}" for axis in axes)
    high = " ".join(f"n{axis} f{axis}" for axis in axes)
    sizes = {f"n{axis}": size for axis, size in enumerate(low_grid)}
    sizes |= {f"f{axis}": size // low_grid[axis] for axis, size in enumerate(grid)}
    return repeat(x, f"b ({low}) d -> b ({high}) d", **sizes)


def show_grid(grid: tuple[int, ...]) -> str:
    """A grid in an error message, such as 16x16."""
    return "x".join(map(str, grid))


def check_tokens(name: str, tokens: Array, grid: tuple[int, ...], groups: int = 1) -> None:
    """Raises ValueError unless `tokens` are integers of shape `(batch, prod(grid) * groups)`."""
    count = math.prod(grid) * groups
    if tokens.ndim != 2 or tokens.shape[1] != count:
        of_each = f" of {groups} tokens a position" if groups > 1 else ""
        raise ValueError(
            f"{name} has shape {tokens.shape}, but the grid {show_grid(grid)}{of_each} needs "
            f"(batch, {count}); flatten the grid in raster order or build the network with another grid."
        )
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"{name} has dtype {tokens.dtype}, but token ids are integers; pass int32.")


def entry_grid(network: Any) -> tuple[int, ...]:
    """The grid that the flat tokens of `network` fill: its last axis times the groups of a position."""
    *others, last = network.grid
    return *others, last * network.groups
