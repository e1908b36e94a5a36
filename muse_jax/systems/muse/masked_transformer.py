"""Muse's base network: a masked transformer over image tokens that reads the text by cross-attention."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from muse_jax.nn.attention import check_width
from muse_jax.nn.conditioning import TextProjection, check_text
from muse_jax.nn.heads import HeadTransform, TiedHead, output_bias
from muse_jax.nn.positions import TokenGrid, check_tokens
from muse_jax.nn.transformer import Transformer


class MaskedTransformer(TiedHead):
    """Logits of every image token given the known ones and the text (Muse, section 2.3).

    Fields:
      vocab_size: codes of the tokenizer; the id `vocab_size` is the mask token.
      grid: sizes of the token grid, any number of axes; (height, width) for images.
      groups: number of tokens per position, adjacent in the flat sequence, each with `vocab_size` codes and
        masked independently (MaskBit). Attention is over positions, whose tokens' embeddings are summed.
      width, depth, heads, mlp_dim: sizes of the transformer; `heads` divides `width`.
      text_dim: width of the text encoder's states.
      dropout: rate on embeddings and residual branches, from the rng stream `dropout`.
      remat: recompute activations in the backward pass.
      dtype: of the computation; parameters, norms, softmaxes and logits are float32.

    `__call__` is `hidden` followed by `logits`. `linear_logits` omits the last product, for code that fuses
    it with the next operation; `output_embedding` returns its table and bias.
    """

    vocab_size: int
    grid: tuple[int, ...] = (16, 16)
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_dim: int = 4096
    text_dim: int = 4096
    dropout: float = 0.0
    remat: bool = False
    groups: int = 1
    dtype: Any = jnp.float32

    @property
    def num_tokens(self) -> int:
        """Length of the flat sequence of an image."""
        return math.prod(self.grid) * self.groups

    def example_inputs(self) -> tuple[Array, ...]:
        """Smallest inputs, for initialization."""
        tokens = jnp.zeros((1, self.num_tokens), jnp.int32)
        return tokens, jnp.zeros((1, 2, self.text_dim)), jnp.ones((1, 2), bool)

    def setup(self):
        check_width(self.width, self.heads)
        self.text_projection = TextProjection(self.width, self.dtype)
        self.embedding = TokenGrid(
            self.vocab_size, tuple(self.grid), self.width, self.dropout, self.dtype, self.groups
        )
        self.transformer = Transformer(
            self.depth, self.heads, self.mlp_dim, self.dropout, self.remat, dtype=self.dtype
        )
        self.head = HeadTransform(self.dtype)
        self.bias = output_bias(self, self.vocab_size, self.groups)

    def __call__(
        self,
        tokens: Int[Array, "batch tokens"],
        text: Float[Array, "batch text text_dim"],
        text_mask: Bool[Array, "batch text"],
        deterministic: bool = True,
    ) -> Float[Array, "batch tokens vocab"]:
        """Float32 logits over the `vocab_size` codes at every position.

        `tokens` are ids in `[0, vocab_size]`, row by row. Text states where `text_mask` is False have no
        influence, and a row without any text is allowed. Raises ValueError for shapes that do not fit.
        """
        return self.logits(self.hidden(tokens, text, text_mask, deterministic))

    def hidden(
        self,
        tokens: Int[Array, "batch tokens"],
        text: Float[Array, "batch text text_dim"],
        text_mask: Bool[Array, "batch text"],
        deterministic: bool = True,
    ) -> Float[Array, "batch positions width"]:
        """Features before the output projection."""
        check_tokens("tokens", tokens, self.grid, self.groups)
        check_text(text, text_mask, self.text_dim)
        x = self.embedding(tokens, deterministic=deterministic)
        x = self.transformer(x, self.text_projection(text), text_mask, deterministic)
        return self.head(x)
