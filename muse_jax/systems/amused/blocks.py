"""Blocks of aMUSEd's network: adaptive norms, attention and convolutions, and their conditioning."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from muse_jax.nn.attention import attend
from muse_jax.nn.convolutions import depthwise_conv
from muse_jax.nn.norms import RMSNorm, rms_normalize

_EPS = 1e-6
_kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class Modulation(NamedTuple):
    """Gain and shift of an adaptive norm, `states * gain + shift`, each (..., batch, channels)."""

    gain: Array
    shift: Array


class KeyValues(NamedTuple):
    """Text as attention reads it: `key` and `value` of shape (..., batch, text, heads, head_dim)."""

    key: Array
    value: Array


class BlockConditioning(NamedTuple):
    """Conditioning of one convolutional block."""

    modulation: Modulation
    first: KeyValues
    second: KeyValues


class LayerConditioning(NamedTuple):
    """Conditioning of one transformer layer: three adaptive norms and the text."""

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


class LayerConditioner(nn.Module):
    """Computes the conditioning of a transformer layer from the text and the active embedding; scanned."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], LayerConditioning]:
        text, active = carry
        norms = [_AdaptiveNorm(self.dtype, name=f"norm{i}")(active) for i in (1, 2, 3)]
        head_dim = text.shape[-1] // self.heads
        text = _TextKeyValues(self.heads, head_dim, self.dtype, name="text")(text)
        return carry, LayerConditioning(norms[0], norms[1], norms[2], text)


class BlockConditioner(nn.Module):
    """Computes the conditioning of a convolutional block from the text and the active embedding; scanned."""

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


class Layer(nn.Module):
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


class ConvBlock(nn.Module):
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


def stacked(module: type[nn.Module], length: int, remat: bool = False) -> Callable[..., nn.Module]:
    """`module` scanned over `length` layers, whose parameters are stacked along axis 0."""
    body = nn.remat(module, prevent_cse=False) if remat else module
    return nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
