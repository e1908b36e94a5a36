"""Tokens on a grid, one or several a position: their embedding, the bias of their output, their check."""

from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float, Int

from muse_jax.nn.layers import EMBED_STD, RMSNorm


class TokenGrid(nn.Module):
    """Token embedding plus learned row and column positions, normalised (MaskGIT).

    `embedding`, which the tied head reads too, has `vocab_size + 1` rows; the last is the mask token's. Where
    a position has several tokens, of `groups` groups, each group has such a table of its own, `(groups,
    vocab_size + 1, width)`, and a position's embeddings are summed (MaskBit).
    """

    vocab_size: int
    grid: tuple[int, int]
    width: int
    dropout: float = 0.0
    dtype: Any = jnp.float32
    groups: int = 1

    def setup(self):
        normal = nn.initializers.normal(EMBED_STD)
        table = (self.vocab_size + 1, self.width)
        if self.groups == 1:
            self.embedding = self.param(
                "embedding", nn.with_logical_partitioning(normal, ("vocab", "embed")), table
            )
        else:
            tables = (self.groups, *table)
            self.embedding = self.param(
                "embedding", nn.with_logical_partitioning(normal, (None, "vocab", "embed")), tables
            )
        self.rows = self.param(
            "row_positions", nn.with_logical_partitioning(normal, (None, "embed")), (self.grid[0], self.width)
        )
        self.columns = self.param(
            "column_positions",
            nn.with_logical_partitioning(normal, (None, "embed")),
            (self.grid[1], self.width),
        )
        self.norm = RMSNorm(self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        tokens: Int[Array, "batch tokens"],
        extra: Float[Array, "batch positions width"] | float = 0.0,
        deterministic: bool = True,
    ) -> Float[Array, "batch positions width"]:
        """Embeds ids in `[0, vocab_size]`, a position's groups side by side.

        `extra` joins the sum before it is normalised.
        """
        positions = rearrange(self.rows[:, None] + self.columns[None], "h w d -> (h w) d")
        x = self._embed(tokens) + positions + extra
        return self.drop(self.norm(x), deterministic=deterministic)

    def _embed(self, tokens: Int[Array, "batch tokens"]) -> Float[Array, "batch positions width"]:
        if self.groups == 1:
            return self.embedding[tokens]
        grouped = rearrange(tokens, "b (n g) -> b n g", g=self.groups)
        return jnp.sum(self.embedding[jnp.arange(self.groups), grouped], axis=2)


def output_bias(module: nn.Module, vocab_size: int, groups: int) -> Array:
    """The parameter `bias` of the output tables, of the shape `(vocab_size,)` or `(groups, vocab_size)`."""
    names, shape = ((), ()) if groups == 1 else ((None,), (groups,))
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, (*names, "vocab"))
    return module.param("bias", zeros, (*shape, vocab_size))


def check_tokens(name: str, tokens: Array, grid: tuple[int, int], groups: int = 1) -> None:
    """Raises ValueError unless `tokens` are integers of shape `(batch, height * width * groups)`."""
    height, width = grid
    if tokens.ndim != 2 or tokens.shape[1] != height * width * groups:
        of_each = f" of {groups} tokens a position" if groups > 1 else ""
        raise ValueError(
            f"{name} has shape {tokens.shape}, but the grid {height}x{width}{of_each} needs "
            f"(batch, {height * width * groups}); flatten the grid row by row or build the "
            "network with another grid."
        )
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"{name} has dtype {tokens.dtype}, but token ids are integers; pass int32.")


def entry_grid(network: Any) -> tuple[int, int]:
    """The grid that a network's flat tokens fill row by row: a position's groups are neighbours in a row."""
    height, width = network.grid
    return height, width * network.groups
