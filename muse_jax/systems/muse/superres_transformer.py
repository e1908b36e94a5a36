"""Muse's super-resolution network: low-resolution tokens and text to high-resolution tokens."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from muse_jax.nn.attention import check_width
from muse_jax.nn.conditioning import TextProjection, check_text
from muse_jax.nn.heads import HeadTransform, TiedHead, output_bias
from muse_jax.nn.layouts import block_layout, grid_layout
from muse_jax.nn.linear import EMBED_STD, Dense
from muse_jax.nn.positions import TokenGrid, check_tokens, repeat_grid, show_grid
from muse_jax.nn.transformer import Transformer


class SuperResTransformer(TiedHead):
    """Logits of the high-resolution tokens given the low-resolution ones and the text (Muse, section 2.4).

    The low-resolution tokens pass through a separate small transformer without text; its output is appended
    to the projected text states, and every high-resolution layer cross-attends to both.
    Self-attention among the high-resolution tokens is multi-axis (MaxViT): layers alternate between windows
    of `block x block` tokens and tokens at one offset of all windows, so two layers connect all positions.

    One path is not in the paper: the low-resolution output, projected and repeated over the tokens that it
    covers, is added to their embeddings. Small models then need not learn this alignment by attention.

    Fields are those of `MaskedTransformer`, and:
      low_vocab_size, low_grid, low_groups: as for the high-resolution tokens, for the low-resolution ones,
        which are never masked; `low_grid` divides `grid`.
      low_depth: layers of the low-resolution transformer.
      block: side of the attention windows; divides every axis of `grid`. `depth` must be even.
    """

    vocab_size: int
    low_vocab_size: int
    grid: tuple[int, ...] = (64, 64)
    low_grid: tuple[int, ...] = (16, 16)
    width: int = 1024
    depth: int = 24
    low_depth: int = 4
    heads: int = 16
    mlp_dim: int = 4096
    text_dim: int = 4096
    block: int = 8
    dropout: float = 0.0
    remat: bool = False
    groups: int = 1
    low_groups: int = 1
    dtype: Any = jnp.float32

    @property
    def num_tokens(self) -> int:
        """Length of the flat sequence of an image."""
        return math.prod(self.grid) * self.groups

    @property
    def num_low_tokens(self) -> int:
        """Length of the flat sequence of the low-resolution image."""
        return math.prod(self.low_grid) * self.low_groups

    def example_inputs(self) -> tuple[Array, ...]:
        """Smallest inputs, for initialization."""
        sequences = [jnp.zeros((1, count), jnp.int32) for count in (self.num_tokens, self.num_low_tokens)]
        return *sequences, jnp.zeros((1, 2, self.text_dim)), jnp.ones((1, 2), bool)

    def setup(self):
        self._check()
        grid = tuple(self.grid)
        sizes = {"heads": self.heads, "mlp_dim": self.mlp_dim, "dropout": self.dropout}
        sizes |= {"remat": self.remat, "dtype": self.dtype}
        self.text_projection = TextProjection(self.width, self.dtype)
        self.low_embedding = TokenGrid(
            self.low_vocab_size, tuple(self.low_grid), self.width, self.dropout, self.dtype, self.low_groups
        )
        self.low_transformer = Transformer(self.low_depth, **sizes)
        # Initialized with the scale of the embeddings that it is added to.
        self.aligned = Dense((self.width,), ("embed", None), EMBED_STD, self.dtype)
        self.embedding = TokenGrid(self.vocab_size, grid, self.width, self.dropout, self.dtype, self.groups)
        layouts = (block_layout(grid, self.block), grid_layout(grid, self.block))
        self.transformer = Transformer(self.depth, **sizes, layouts=layouts)
        self.head = HeadTransform(self.dtype)
        self.bias = output_bias(self, self.vocab_size, self.groups)

    def _check(self) -> None:
        check_width(self.width, self.heads)
        if self.depth % 2:
            raise ValueError(
                f"depth {self.depth} is odd, but layers come in pairs of blocked and grid attention; "
                "choose an even depth."
            )
        if any(side % self.block for side in self.grid):
            raise ValueError(
                f"block {self.block} does not divide the grid {show_grid(self.grid)}; "
                "choose a block that does."
            )
        if len(self.grid) != len(self.low_grid) or any(
            h % low for h, low in zip(self.grid, self.low_grid, strict=True)
        ):
            raise ValueError(
                f"low_grid {show_grid(self.low_grid)} does not divide the grid {show_grid(self.grid)}; "
                "a low-resolution token must cover whole tokens of the grid."
            )

    def __call__(
        self,
        tokens: Int[Array, "batch tokens"],
        low_tokens: Int[Array, "batch low_tokens"],
        text: Float[Array, "batch text text_dim"],
        text_mask: Bool[Array, "batch text"],
        deterministic: bool = True,
    ) -> Float[Array, "batch tokens vocab"]:
        """Float32 logits over the `vocab_size` high-resolution codes at every position.

        `tokens` are ids in `[0, vocab_size]`, `low_tokens` ids in `[0, low_vocab_size)`, both row by row; the
        text as in `MaskedTransformer`. Raises ValueError for shapes that do not fit.
        """
        return self.logits(self.hidden(tokens, low_tokens, text, text_mask, deterministic))

    def hidden(
        self,
        tokens: Int[Array, "batch tokens"],
        low_tokens: Int[Array, "batch low_tokens"],
        text: Float[Array, "batch text text_dim"],
        text_mask: Bool[Array, "batch text"],
        deterministic: bool = True,
    ) -> Float[Array, "batch positions width"]:
        """Features before the output projection."""
        check_tokens("tokens", tokens, self.grid, self.groups)
        check_tokens("low_tokens", low_tokens, self.low_grid, self.low_groups)
        check_text(text, text_mask, self.text_dim)
        low = self.low_embedding(low_tokens, deterministic=deterministic)
        low = self.low_transformer(low, deterministic=deterministic)
        context = jnp.concatenate([low, self.text_projection(text)], axis=1)
        mask = jnp.concatenate([jnp.ones(low.shape[:2], bool), text_mask], axis=1)
        aligned = repeat_grid(self.aligned(low), self.low_grid, self.grid)
        x = self.embedding(tokens, aligned, deterministic)
        x = self.transformer(x, context, mask, deterministic)
        return self.head(x)
