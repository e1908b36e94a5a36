"""NUWA's network: tokens of images and videos from text, and from sketches, images or videos on a grid.

Equations: arXiv 2111.12417, section 3. Images are videos of one frame.
"""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from muse_jax.nn.attention import check_width
from muse_jax.nn.conditioning import check_text
from muse_jax.nn.heads import LinearLogits, unembed
from muse_jax.nn.linear import EMBED_STD, Dense
from muse_jax.nn.nearby import ATTENTIONS, SHIFTS, Context, Windows, input_places, make_windows
from muse_jax.nn.norms import LayerNorm, rms_normalize
from muse_jax.nn.positions import show_grid
from muse_jax.systems.nuwa.blocks import Conditions, NuwaStack, Places, Whole

Memory = tuple[tuple[Array, Array], Context]
"""Cached keys and values of all layers (layers, batch, heads, slots, dim), and their context."""


class NuwaTransformer(nn.Module):
    """Logits of every token of an image or a video given the ones before it and the conditions.

    Fields:
      vocab_size: codes of the tokenizer. The id `vocab_size` stands for what lies before the grid and, with
        `shift="none"`, for a masked token.
      grid: largest sizes (frames, height, width) of the token grid; inputs may have fewer frames.
      width, depth, heads, mlp_dim: sizes of the decoder; `heads` divides `width`.
      text_dim: width of the text encoder's states.
      code_dim: width of the codebook's vectors, through which tokens enter.
      attention: what a place sees of the tokens and of a condition: "nearby", those in `window` around it;
        "axial", those on the lines through it along each axis; "full", all.
      window: odd extents of nearby attention.
      shift: the tokens that are the input of a place: "raster", the previous one in raster order, as
        published; "3d", the previous ones along each axis, which allows decoding by wavefronts; "none", its
        own, for masked decoding: attention is then not causal.
      condition_depth: layers of the encoder of conditions on a grid; 0: the network reads text only.
      layer_scale: initial scale of the residual branches.
      dropout: rate on residual branches, from the rng stream `dropout`.
      remat: recompute activations in the backward pass.
      dtype: of the computation; parameters, norms, softmaxes and logits are float32.
    """

    vocab_size: int
    grid: tuple[int, ...] = (10, 21, 21)
    width: int = 1280
    depth: int = 24
    heads: int = 20
    mlp_dim: int = 5120
    text_dim: int = 512
    code_dim: int = 256
    attention: str = "nearby"
    window: tuple[int, ...] = (3, 3, 3)
    shift: str = "3d"
    condition_depth: int = 0
    layer_scale: float = 0.1
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def frame_tokens(self) -> int:
        """Number of tokens of a frame."""
        return self.grid[1] * self.grid[2]

    @property
    def windows(self) -> Windows:
        """The windows in which a place sees others."""
        return make_windows(self.attention, self.grid, self.window)

    def grid_of(self, count: int) -> tuple[int, ...]:
        """The grid of a flat sequence.

        Raises:
          ValueError: if it is not a whole number of frames, from 1 to those of `grid`.
        """
        frames, rest = divmod(count, self.frame_tokens)
        if rest or not 1 <= frames <= self.grid[0]:
            raise ValueError(
                f"{count} tokens are not 1 to {self.grid[0]} frames of {self.grid[1]}x{self.grid[2]}: "
                "give whole frames, and no more than the network has positions for."
            )
        return frames, *self.grid[1:]

    def example_inputs(self) -> tuple[Array, ...]:
        """Inputs of the smallest size, to initialize parameters with."""
        tokens = jnp.zeros((1, self.frame_tokens), jnp.int32)
        text = jnp.zeros((1, 2, self.text_dim)), jnp.ones((1, 2), bool)
        condition = (jnp.zeros((1, 1, *self.grid[1:]), jnp.int32),) if self.condition_depth else ()
        return tokens, *text, *condition

    def setup(self):
        check_width(self.width, self.heads)
        if self.shift not in SHIFTS:
            raise ValueError(f"shift must be one of {', '.join(SHIFTS)}, given {self.shift!r}.")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}, given {self.attention!r}.")
        if not len(self.grid) == len(self.window) == 3:
            raise ValueError(
                f"grid and window must have three axes (frames, height, width), given {self.grid} and "
                f"{self.window}."
            )
        normal = nn.initializers.normal(EMBED_STD)
        vectors = nn.with_logical_partitioning(normal, ("vocab", None))
        self.codebook = self.param("codebook", vectors, (self.vocab_size + 1, self.code_dim))
        self.inputs = Dense((self.width,), (None, "embed"), dtype=self.dtype)
        self.positions = self._positions("")
        self.text_projection = Dense((self.width,), (None, "embed"), dtype=self.dtype)
        common = {
            "width": self.width,
            "heads": self.heads,
            "mlp_dim": self.mlp_dim,
            "layer_scale": self.layer_scale,
            "dropout": self.dropout,
            "remat": self.remat,
            "dtype": self.dtype,
        }
        self.decoder = NuwaStack(self.depth, **common)
        if self.condition_depth:
            self.condition_inputs = Dense((self.width,), (None, "embed"), dtype=self.dtype)
            self.condition_positions = self._positions("condition_")
            self.encoder = NuwaStack(self.condition_depth, cross=False, **common)
            self.encoder_norm = LayerNorm(dtype=self.dtype)
        self.head_norm = LayerNorm(dtype=self.dtype)
        table = nn.with_logical_partitioning(normal, ("vocab", "embed"))
        self.head = self.param("head", table, (self.vocab_size, self.width))
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
        self.bias = self.param("bias", zeros, (self.vocab_size,))

    def _positions(self, prefix: str) -> list[Any]:
        init = nn.with_logical_partitioning(nn.initializers.normal(EMBED_STD), (None, "embed"))
        axes = zip(("frame", "row", "column"), self.grid, strict=True)
        return [self.param(f"{prefix}{axis}_positions", init, (size, self.width)) for axis, size in axes]

    def __call__(
        self,
        tokens: Int[Array, "batch tokens"],
        text: Float[Array, "batch text text_dim"],
        text_mask: Bool[Array, "batch text"],
        condition: Int[Array, "batch frames height width"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "batch tokens vocab"]:
        """Float32 logits over the codes at every place, in raster order.

        Args:
          tokens: ids of 1 to `grid[0]` frames. The logits of a place do not depend on the tokens there or
            later; with `shift="none"` they depend on all tokens.
          text: states of the text encoder; those where `text_mask` is False have no influence.
          condition: ids on a grid at most as large as `grid`; only if `condition_depth` is above 0.

        Raises:
          ValueError: for shapes that do not fit.
        """
        return unembed(self.hidden(tokens, text, text_mask, condition, deterministic), *self.output())

    def output(self) -> tuple[Float[Array, "vocab width"], Float[Array, " vocab"]]:
        """Table and bias of the head."""
        return self.head, self.bias

    def linear_logits(self, *inputs: Any) -> LinearLogits:
        """The logits of the inputs of `hidden`, without the last product: samplers stream the vocabulary."""
        return LinearLogits(self.hidden(*inputs), *self.output())

    def hidden(
        self,
        tokens: Int[Array, "batch tokens"],
        text: Float[Array, "batch text text_dim"],
        text_mask: Bool[Array, "batch text"],
        condition: Int[Array, "batch frames height width"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "batch tokens width"]:
        """The features that the head multiplies."""
        grid = self.grid_of(tokens.shape[1])
        conditions = self.conditions(text, text_mask, condition, deterministic)
        x = self._embed(tokens, jnp.arange(tokens.shape[1]), grid)
        how = Whole(grid, self.windows, self.shift != "none", conditions)
        x, _ = self.decoder(x, how, deterministic=deterministic)
        return self.head_norm(x)

    def conditions(
        self, text: Array, text_mask: Array, condition: Array | None = None, deterministic: bool = True
    ) -> Conditions:
        """The states that the decoder attends to; inputs as of `__call__`."""
        check_text(text, text_mask, self.text_dim)
        states = self.text_projection(rms_normalize(text))  # whatever the encoder's scale
        if condition is None:
            return Conditions(states, text_mask)
        grid = tuple(condition.shape[1:])
        if not self.condition_depth:
            raise ValueError("condition is given, but this network reads text only: leave it out.")
        if len(grid) != 3 or any(size > most for size, most in zip(grid, self.grid, strict=True)):
            raise ValueError(
                f"condition has shape {condition.shape}, but the network reads (batch, frames, height, "
                f"width) of at most {show_grid(self.grid)}: resize it."
            )
        x = self.condition_inputs(self.codebook[condition.reshape(len(condition), -1)])
        x += _at(self.condition_positions, jnp.arange(math.prod(grid)), grid).astype(self.dtype)
        x, _ = self.encoder(x, Whole(grid, self.windows, False), deterministic=deterministic)
        return Conditions(states, text_mask, self.encoder_norm(x), grid)

    def context(self, conditions: Conditions) -> Context:
        """Keys and values of the conditions for all layers, (layers, ...)."""
        x = jnp.zeros((len(conditions.text), 1, self.width), self.dtype)
        return self.decoder(x, conditions)[1]

    def hidden_at(
        self, tokens: Int[Array, "batch tokens"], places: Int[Array, " places"], memory: Memory, how: Places
    ) -> tuple[Float[Array, "batch places width"], tuple[Array, Array]]:
        """`hidden` at a few places, given the memory of earlier ones; also their keys and values."""
        x = self._embed(tokens, places, self.grid_of(tokens.shape[1]))
        x, kept = self.decoder(x, how, memory)
        return self.head_norm(x), kept

    def _embed(self, tokens: Array, places: Array, grid: tuple[int, ...]) -> Array:
        """Inputs of `places`: the codes' vectors of their input tokens, side by side, and the positions."""
        table = jnp.asarray(input_places(grid, self.shift))[places]
        ids = jnp.where(table < 0, self.vocab_size, tokens[:, jnp.maximum(table, 0)])
        vectors = self.codebook[ids].reshape(*ids.shape[:2], -1)
        return self.inputs(vectors) + _at(self.positions, places, grid).astype(self.dtype)


def _at(
    tables: list[Array], places: Int[Array, " places"], grid: tuple[int, ...]
) -> Float[Array, "places width"]:
    """Positional embeddings of places of `grid`, the sum over its axes."""
    indices = jnp.unravel_index(places, grid)
    return sum((table[index] for table, index in zip(tables, indices, strict=True)), jnp.zeros(()))
