"""aMUSEd's network (diffusers' `UVit2DModel`): a masked transformer between two stacks of conv blocks.

It is split where parallel decoding allows it. The text, its pooled embedding and the micro-conditions do not
change from step to step, and nothing in the network that reads them reads the tokens before it. So
`condition` computes, once an image, every key, value and adaptive gain of every layer, and `hidden` and
`logits` do what is left for each step. `__call__` does all of it.
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from muse_jax.nn.norms import RMSNorm
from muse_jax.systems.amused.blocks import (
    BlockConditioner,
    Conditioning,
    ConvBlock,
    Layer,
    LayerConditioner,
    Linear,
    stacked,
)


def sinusoids(values: Float[Array, "*batch"], dim: int) -> Float[Array, "*batch dim"]:
    """Sinusoidal embedding with wavelengths to 10000, the cosines first."""
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(dim // 2) / (dim // 2))
    angles = values[..., None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class UVit2D(nn.Module):
    """aMUSEd's masked transformer. The defaults are the published 256-pixel model's (603M parameters).

    Attributes:
      vocab_size: rows of the token embedding; the mask id is `vocab_size - 1`.
      codebook_size: the codes that logits are over.
      grid: height and width of the token grid.
      resample: halve the grid before the transformer and double it after (the 512-pixel model).
      text_dim, pooled_dim: widths of CLIP's states and of its pooled embedding.
      num_micro: how many micro-conditions (width, height, crop x, crop y, aesthetic score) an image has.
      dtype: of the activations; parameters are float32.
    """

    vocab_size: int = 8256
    codebook_size: int = 8192
    grid: tuple[int, int] = (16, 16)
    width: int = 1024
    depth: int = 22
    heads: int = 16
    mlp_dim: int = 2816
    channels: int = 768
    conv_blocks: int = 3
    conv_heads: int = 12
    embed_dim: int = 768
    text_dim: int = 768
    pooled_dim: int = 768
    micro_dim: int = 256
    num_micro: int = 5
    resample: bool = False
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def num_tokens(self) -> int:
        """Length of the flat sequence of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def mask_id(self) -> int:
        """The id of a token that is still to be drawn."""
        return self.vocab_size - 1

    def example_inputs(self) -> tuple[Array, ...]:
        """Inputs of the smallest size, to initialize parameters with."""
        text, pooled = jnp.zeros((1, 1, self.text_dim)), jnp.zeros((1, self.pooled_dim))
        return jnp.zeros((1, self.num_tokens), jnp.int32), text, pooled, jnp.zeros((1, self.num_micro))

    def __post_init__(self) -> None:
        for total, heads in ((self.width, self.heads), (self.channels, self.conv_heads)):
            if total % heads:
                raise ValueError(
                    f"{heads} heads do not divide a width of {total}; choose a number that does."
                )
        if self.resample and any(side % 2 for side in self.grid):
            raise ValueError(
                f"A grid of {self.grid} cannot be halved; with resample=True its sides must be even."
            )
        super().__post_init__()

    def setup(self) -> None:
        self.text_proj = Linear((self.width,), (None, "embed"), self.dtype)
        self.text_norm = RMSNorm()
        self.condition_in = Linear((self.width,), (None, "embed"), self.dtype)
        self.condition_out = Linear((self.width,), ("embed", None), self.dtype)
        blocks = functools.partial(
            stacked(BlockConditioner, self.conv_blocks), self.channels, self.conv_heads
        )
        self.down_conditioner, self.up_conditioner = blocks(self.dtype), blocks(self.dtype)
        self.layers_conditioner = stacked(LayerConditioner, self.depth)(self.heads, self.dtype)

        embedding = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
        self.embedding = self.param("embedding", embedding, (self.vocab_size, self.embed_dim), jnp.float32)
        self.embedding_norm = RMSNorm()
        self.embedding_proj = Linear((self.channels,), ("embed", None), self.dtype)
        conv_stack = stacked(ConvBlock, self.conv_blocks, self.remat)
        self.down, self.up = conv_stack(self.conv_heads, self.dtype), conv_stack(self.conv_heads, self.dtype)
        self.to_hidden_norm, self.from_hidden_norm = RMSNorm(), RMSNorm()
        self.to_hidden = Linear((self.width,), ("embed", None), self.dtype)
        self.from_hidden = Linear((self.channels,), ("embed", None), self.dtype)
        self.layers = stacked(Layer, self.depth, self.remat)(self.heads, self.mlp_dim, self.dtype)
        if self.resample:
            axes = ("embed", None)
            self.downsample_norm, self.upsample_norm = RMSNorm(), RMSNorm()
            self.downsample = Linear((self.channels,), axes, self.dtype)
            self.upsample = Linear((2, 2, self.channels), ("embed", None, None, None), self.dtype)
        self.head_proj = Linear((self.embed_dim,), ("embed", None), self.dtype)
        self.head_norm = RMSNorm()
        self.head = Linear((self.codebook_size,), ("embed", "vocab"), self.dtype)

    def __call__(
        self,
        tokens: Int[Array, "batch tokens"],
        text: Float[Array, "batch text text_dim"],
        pooled: Float[Array, "batch pooled_dim"],
        micro: Float[Array, "batch num_micro"],
    ) -> Float[Array, "batch tokens codes"]:
        """Float32 logits of every token, from the tokens and the condition."""
        return self.logits(self.hidden(tokens, self.condition(text, pooled, micro)))

    def condition(
        self,
        text: Float[Array, "batch text text_dim"],
        pooled: Float[Array, "batch pooled_dim"],
        micro: Float[Array, "batch num_micro"],
    ) -> Conditioning:
        """Conditioning of all layers, from CLIP's penultimate states and pooled embedding, and `micro`."""
        if micro.shape[-1] != self.num_micro:
            raise ValueError(
                f"The model has {self.num_micro} micro-conditions an image, not {micro.shape[-1]}."
            )
        states = self.text_norm(self.text_proj(text))
        angles = sinusoids(micro, self.micro_dim).reshape(micro.shape[0], -1)
        vector = jnp.concatenate([pooled.astype(self.dtype), angles.astype(self.dtype)], -1)
        active = nn.silu(self.condition_out(nn.silu(self.condition_in(vector))))
        carry = (states, active)
        stacks = (self.down_conditioner, self.layers_conditioner, self.up_conditioner)
        return Conditioning(*(stack(carry, None)[1] for stack in stacks))

    def hidden(
        self, tokens: Int[Array, "batch tokens"], conditioning: Conditioning
    ) -> Float[Array, "batch tokens embed_dim"]:
        """The normalised states that `logits` multiplies by its matrix (guidance may mix these instead)."""
        batch, (height, width) = tokens.shape[0], self.grid
        if tokens.shape[1] != height * width:
            raise ValueError(f"Got {tokens.shape[1]} tokens for a grid of {height}x{width}.")
        x = self.embedding[tokens].astype(self.dtype)
        x = self.embedding_proj(self.embedding_norm(x)).reshape(batch, height, width, self.channels)
        if self.resample:
            x = self.downsample(_fold(self.downsample_norm(x)))
        x, _ = self.down(x, conditioning.down)
        states = self.to_hidden(self.to_hidden_norm(x.reshape(batch, -1, self.channels)))
        states, _ = self.layers(states, conditioning.layers)
        x = self.from_hidden(self.from_hidden_norm(states)).reshape(x.shape)
        x, _ = self.up(x, conditioning.up)
        if self.resample:
            x = _unfold(self.upsample(self.upsample_norm(x)))
        return self.head_norm(self.head_proj(x.reshape(batch, height * width, self.channels)))

    def logits(self, hidden: Float[Array, "batch tokens embed_dim"]) -> Float[Array, "batch tokens codes"]:
        """Float32 logits over the codes; linear in `hidden`."""
        return self.head(hidden).astype(jnp.float32)


def _fold(x: Float[Array, "batch height width channels"]) -> Array:
    """Puts each 2x2 square of positions into one's channels: a stride-2 convolution is then a matrix."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).swapaxes(2, 3).reshape(b, h // 2, w // 2, 4 * c)


def _unfold(x: Float[Array, "batch height width 2 2 channels"]) -> Array:
    b, h, w, _, _, c = x.shape
    return x.swapaxes(2, 3).reshape(b, 2 * h, 2 * w, c)
