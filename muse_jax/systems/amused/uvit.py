"""aMUSEd's network (diffusers' `UVit2DModel`): a masked transformer between two stacks of conv blocks.

It is split where parallel decoding allows it. The text, its pooled embedding and the micro-conditions do not
change from step to step, and nothing in the network that reads them reads the tokens before it. So
`condition` computes, once an image, every key, value and adaptive gain of every layer, and `hidden` and
`logits` do what is left for each step. `__call__` does all of it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from muse_jax.nn.attention import attend
from muse_jax.nn.convolutions import depthwise_conv
from muse_jax.nn.norms import RMSNorm, rms_normalize

_EPS = 1e-6
_kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class Modulation(NamedTuple):
    """What adaptive norm does to normalised states: `states * gain + shift`, each (..., batch, channels)."""

    gain: Array
    shift: Array


class KeyValues(NamedTuple):
    """Text as attention reads it: `key` and `value` of shape (..., batch, text, heads, head_dim)."""

    key: Array
    value: Array


class BlockConditioning(NamedTuple):
    """What one convolutional block takes from the condition."""

    modulation: Modulation
    first: KeyValues
    second: KeyValues


class LayerConditioning(NamedTuple):
    """What one transformer layer takes from the condition: three adaptive norms and the text."""

    attention: Modulation
    cross_attention: Modulation
    mlp: Modulation
    text: KeyValues


class Conditioning(NamedTuple):
    """All that the network takes from the condition; the leading axis of every leaf is the layer."""

    down: BlockConditioning
    layers: LayerConditioning
    up: BlockConditioning


def _param(
    module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str | None, ...], init: Any
) -> Array:
    return module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)


class Linear(nn.Module):
    """A matrix without bias from the last axis to `shape`; it multiplies as one whatever `shape` is."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch_and_shape"]:
        fan_in = x.shape[-1]
        kernel = _param(self, "kernel", (fan_in, *self.shape), self.axes, _flat_init(fan_in))
        y = x.astype(self.dtype) @ kernel.reshape(fan_in, -1).astype(self.dtype)
        return y.reshape(*x.shape[:-1], *self.shape)


def _flat_init(fan_in: int) -> Callable:
    # The fan of a kernel (inputs, heads, head_dim) is its first axis only.
    def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        return _kernel_init(key, (fan_in, -(-_size(shape) // fan_in)), dtype).reshape(shape)

    return init


def _size(shape: tuple[int, ...]) -> int:
    return functools.reduce(lambda a, b: a * b, shape, 1)


def modulate(
    x: Float[Array, "batch tokens channels"], modulation: Modulation, centre: bool = False
) -> Float[Array, "batch tokens channels"]:
    """Adaptive norm, its gain and shift computed beforehand: RMS, or layer norm where `centre`."""
    if centre:
        x = x - x.astype(jnp.float32).mean(-1, keepdims=True).astype(x.dtype)
    return rms_normalize(x).astype(x.dtype) * modulation.gain[:, None] + modulation.shift[:, None]


class _AdaptiveNorm(nn.Module):
    """The condition's half of an adaptive RMS norm: its gain holds the norm's own scale as well."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, active: Float[Array, "batch width"]) -> Modulation:
        width = active.shape[-1]
        mapped = Linear((2, width), ("embed", None, None), self.dtype, name="mapper")(active)
        norm_scale = _param(self, "scale", (width,), ("embed",), nn.initializers.ones)
        return Modulation((1 + mapped[:, 0]) * norm_scale.astype(self.dtype), mapped[:, 1])


class _TextKeyValues(nn.Module):
    heads: int
    head_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text: Float[Array, "batch text channels"]) -> KeyValues:
        shape, axes = (2, self.heads, self.head_dim), ("embed", None, "heads", "kv")
        both = Linear(shape, axes, self.dtype, name="key_value")(text)
        return KeyValues(both[:, :, 0], both[:, :, 1])


class _LayerConditioner(nn.Module):
    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], LayerConditioning]:
        text, active = carry
        norms = [_AdaptiveNorm(self.dtype, name=f"norm{i}")(active) for i in (1, 2, 3)]
        head_dim = text.shape[-1] // self.heads
        text = _TextKeyValues(self.heads, head_dim, self.dtype, name="text")(text)
        return carry, LayerConditioning(norms[0], norms[1], norms[2], text)


class _BlockConditioner(nn.Module):
    channels: int
    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], BlockConditioning]:
        text, active = carry
        mapped = Linear((2, self.channels), ("embed", None, None), self.dtype, name="mapper")(active)
        mapped_text = Linear((self.channels,), ("embed", None), self.dtype, name="text_mapper")(nn.silu(text))
        head_dim = self.channels // self.heads
        key_values = [
            _TextKeyValues(self.heads, head_dim, self.dtype, name=f"text{i}")(mapped_text) for i in (1, 2)
        ]
        return carry, BlockConditioning(Modulation(1 + mapped[:, 0], mapped[:, 1]), *key_values)


class _Attention(nn.Module):
    """Query, attention and output projection; keys and values are the text's, or `states`' own if None."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, states: Float[Array, "batch tokens channels"], text: KeyValues | None = None) -> Array:
        channels = states.shape[-1]
        head_dim = channels // self.heads
        if text is None:
            shape, axes = (3, self.heads, head_dim), ("embed", None, "heads", "kv")
            fused = Linear(shape, axes, self.dtype, name="query_key_value")(states)
            query, text = fused[:, :, 0], KeyValues(fused[:, :, 1], fused[:, :, 2])
        else:
            query = Linear((self.heads, head_dim), ("embed", "heads", "kv"), self.dtype, name="query")(states)
        query, key, value = (x.swapaxes(1, 2) for x in (query, *text))
        mixed = attend(query, key, value).swapaxes(1, 2).reshape(states.shape)
        return Linear((channels,), ("heads", "embed"), self.dtype, name="out")(mixed)


class _Layer(nn.Module):
    """Self-attention and cross-attention behind adaptive RMS norms, a gated MLP behind a layer norm."""

    heads: int
    mlp_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"], condition: LayerConditioning
    ) -> tuple[Array, None]:
        x = x + _Attention(self.heads, self.dtype, name="attention")(modulate(x, condition.attention))
        states = modulate(x, condition.cross_attention)
        x = x + _Attention(self.heads, self.dtype, name="cross_attention")(states, condition.text)
        hidden = Linear((2, self.mlp_dim), ("embed", None, "mlp"), self.dtype, name="mlp_in")(
            modulate(x, condition.mlp, centre=True)
        )
        gated = hidden[:, :, 0] * nn.gelu(hidden[:, :, 1], approximate=False)
        return x + Linear((x.shape[-1],), ("mlp", "embed"), self.dtype, name="mlp_out")(gated), None


class _ConvBlock(nn.Module):
    """A ConvNeXt block with global response norm, modulated, and two attentions to the text."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], condition: BlockConditioning
    ) -> tuple[Array, None]:
        channels = x.shape[-1]
        kernel = _param(self, "depthwise", (3, 3, channels), (None, None, "embed"), _flat_init(9))
        h = RMSNorm(name="conv_norm")(depthwise_conv(x, kernel.astype(self.dtype).reshape(9, channels), 3))
        h = nn.gelu(
            Linear((4 * channels,), ("embed", "mlp"), self.dtype, name="mlp_in")(h), approximate=False
        )
        gamma = _param(self, "response_gain", (4 * channels,), ("mlp",), nn.initializers.zeros)
        beta = _param(self, "response_bias", (4 * channels,), ("mlp",), nn.initializers.zeros)
        h = h * (1 + gamma.astype(self.dtype) * _response(h)) + beta.astype(self.dtype)
        h = Linear((channels,), ("mlp", "embed"), self.dtype, name="mlp_out")(h)
        gain, shift = (m[:, None, None] for m in condition.modulation)
        x = (x + h) * gain + shift
        states = x.reshape(x.shape[0], -1, channels)
        for i, text in ((1, condition.first), (2, condition.second)):
            attention = _Attention(self.heads, self.dtype, name=f"attention{i}")
            states = states + attention(RMSNorm(name=f"norm{i}")(states), text)
        return states.reshape(x.shape), None


def _response(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch 1 1 channels"]:
    """Global response norm's divisive factor (ConvNeXt V2): a channel's L2 norm over the mean channel's."""
    norm = jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), (1, 2), keepdims=True))
    return (norm / (norm.mean(-1, keepdims=True) + _EPS)).astype(x.dtype)


def _stack(module: type[nn.Module], length: int, remat: bool = False) -> Callable[..., nn.Module]:
    body = nn.remat(module, prevent_cse=False) if remat else module
    return nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
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
            _stack(_BlockConditioner, self.conv_blocks), self.channels, self.conv_heads
        )
        self.down_conditioner, self.up_conditioner = blocks(self.dtype), blocks(self.dtype)
        self.layers_conditioner = _stack(_LayerConditioner, self.depth)(self.heads, self.dtype)

        embedding = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
        self.embedding = self.param("embedding", embedding, (self.vocab_size, self.embed_dim), jnp.float32)
        self.embedding_norm = RMSNorm()
        self.embedding_proj = Linear((self.channels,), ("embed", None), self.dtype)
        conv_stack = _stack(_ConvBlock, self.conv_blocks, self.remat)
        self.down, self.up = conv_stack(self.conv_heads, self.dtype), conv_stack(self.conv_heads, self.dtype)
        self.to_hidden_norm, self.from_hidden_norm = RMSNorm(), RMSNorm()
        self.to_hidden = Linear((self.width,), ("embed", None), self.dtype)
        self.from_hidden = Linear((self.channels,), ("embed", None), self.dtype)
        self.layers = _stack(_Layer, self.depth, self.remat)(self.heads, self.mlp_dim, self.dtype)
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
        """What the layers take from CLIP's last-but-one states and pooled embedding, and from `micro`."""
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
