"""Convolutions, residual blocks, and depthwise convolution as shifted sums."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


def conv(features: int, kernel: int, dtype: Any, name: str | None = None) -> nn.Conv:
    """Convolution with a square kernel, stride 1 and "SAME" padding."""
    init = nn.with_logical_partitioning(
        nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal"),
        (None, None, "conv_in", "conv_out"),
    )
    return nn.Conv(features, (kernel, kernel), dtype=dtype, kernel_init=init, name=name)


class NormSwish(nn.Module):
    """Group normalization followed by swish: 32 groups, or fewer where the channels are no multiple of 32."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        groups = next(g for g in (32, 16, 8, 4, 2, 1) if x.shape[-1] % g == 0)
        return nn.swish(nn.GroupNorm(groups, dtype=self.dtype)(x))


class ResBlock(nn.Module):
    """Residual block `x + conv(act(conv(act(x))))`, with a projected skip where the width changes."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w features"]:
        h = conv(self.features, 3, self.dtype)(NormSwish(self.dtype)(x))
        h = conv(self.features, 3, self.dtype)(NormSwish(self.dtype)(h))
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, self.dtype, name="skip")(x)
        return x + h


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis under TensorFlow's "SAME" padding: an odd zero goes to the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def shifted_views(
    x: Float[Array, "batch height width channels"], kernel: int, stride: int
) -> list[Float[Array, "batch rows columns channels"]]:
    """The `kernel * kernel` inputs of a "SAME" convolution's products, row by row of the kernel."""
    rows, columns = (-(-size // stride) for size in x.shape[1:3])
    pad = [same_padding(size, kernel, stride) for size in x.shape[1:3]]
    return _taps(jnp.pad(x, ((0, 0), *pad, (0, 0))), kernel, stride, rows, columns)


def _taps(x: Array, kernel: int, stride: int, rows: int, columns: int) -> list[Array]:
    """Shifted and strided views of the padded `x`."""
    batch, channels = x.shape[0], x.shape[-1]
    return [
        jax.lax.slice(
            x,
            (0, i, j, 0),
            (batch, i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, channels),
            (1, stride, stride, 1),
        )
        for i in range(kernel)
        for j in range(kernel)
    ]


def _weighted_sum(weights: Array, taps: list[Array]) -> Array:
    return functools.reduce(operator.add, (w * tap for w, tap in zip(weights, taps, strict=True)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_conv(
    x: Float[Array, "batch height width channels"],
    weights: Float[Array, "kernel*kernel channels"],
    kernel: int,
    stride: int = 1,
) -> Float[Array, "batch rows columns channels"]:
    """Depthwise convolution with "SAME" padding, as a sum of shifted products.

    It is one fused loop; XLA's grouped convolutions on CPU are about 25 times slower. The gradient is written
    as the convolution with the flipped kernel, because transposing the slices would give many padded sums.
    """
    return _weighted_sum(weights, shifted_views(x, kernel, stride))


def _depthwise_forward(x: Array, weights: Array, kernel: int, stride: int):
    return depthwise_conv(x, weights, kernel, stride), (x, weights)


def _depthwise_backward(kernel: int, stride: int, saved: tuple[Array, Array], grad: Array):
    x, weights = saved
    d_weights = jnp.stack([jnp.sum(grad * tap, (0, 1, 2)) for tap in shifted_views(x, kernel, stride)])
    pads = [(0, 0, 0)] * 4
    for axis, (size, out) in enumerate(zip(x.shape[1:3], grad.shape[1:3], strict=True), start=1):
        low = kernel - 1 - same_padding(size, kernel, stride)[0]
        pads[axis] = (low, size + kernel - 1 - low - ((out - 1) * stride + 1), stride - 1)
    # The barrier keeps XLA from recomputing the producer of `grad` for every tap.
    grad = jax.lax.optimization_barrier(jax.lax.pad(grad, jnp.zeros((), grad.dtype), pads))
    return _weighted_sum(weights[::-1], _taps(grad, kernel, 1, *x.shape[1:3])), d_weights


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)
