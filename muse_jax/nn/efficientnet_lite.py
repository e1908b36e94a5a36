"""EfficientNet-Lite0 for inference: a small ImageNet network whose features measure pictures.

Tan and Le, "EfficientNet" (ICML 2019), in its Lite form: no squeeze-and-excitation, ReLU6 throughout. Batch
normalisation is folded into the convolutions (see `muse_jax.interop.efficientnet_lite`).
"""

import functools
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# (kernel, stride, expansion, width) of each block.
BLOCKS = (
    (3, 1, 1, 16),
    *((3, 2, 6, 24), (3, 1, 6, 24)),
    *((5, 2, 6, 40), (5, 1, 6, 40)),
    *((3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80)),
    *((5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112)),
    *((5, 2, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192)),
    (3, 1, 6, 320),
)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME" padding: the odd zero goes to the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _padded(x: Array, kernel: int, stride: int) -> Array:
    pad = [same_padding(n, kernel, stride) for n in x.shape[1:3]]
    return jnp.pad(x, ((0, 0), pad[0], pad[1], (0, 0)))


def _taps(x: Array, kernel: int, stride: int, rows: int, cols: int) -> list[Array]:
    """The kernel * kernel shifted (and strided) views of padded `x` that a convolution weighs, row by row."""
    batch, channels = x.shape[0], x.shape[-1]
    return [
        jax.lax.slice(
            x,
            (0, i, j, 0),
            (batch, i + (rows - 1) * stride + 1, j + (cols - 1) * stride + 1, channels),
            (1, stride, stride, 1),
        )
        for i in range(kernel)
        for j in range(kernel)
    ]


def _weighed(weights: Array, taps: list[Array]) -> Array:
    return functools.reduce(operator.add, (w * tap for w, tap in zip(weights, taps)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_conv(
    x: Float[Array, "batch height width channels"],
    weights: Float[Array, "kernel*kernel channels"],
    kernel: int,
    stride: int,
) -> Array:
    """Depthwise convolution with "SAME" padding, as shifted multiply-adds.

    One fused loop, where CPU's grouped convolutions are some 25 times slower. The gradient is written as the
    convolution with the flipped kernel: left to the transposition of slices it becomes many padded sums.
    """
    rows, cols = (-(-n // stride) for n in x.shape[1:3])
    return _weighed(weights, _taps(_padded(x, kernel, stride), kernel, stride, rows, cols))


def _depthwise_forward(x: Array, weights: Array, kernel: int, stride: int):
    return depthwise_conv(x, weights, kernel, stride), (x, weights)


def _depthwise_backward(kernel: int, stride: int, saved: tuple[Array, Array], grad: Array):
    x, weights = saved
    rows, cols = grad.shape[1:3]
    d_weights = jnp.stack(
        [
            jnp.sum(grad * tap, (0, 1, 2))
            for tap in _taps(_padded(x, kernel, stride), kernel, stride, rows, cols)
        ]
    )
    pads = [(0, 0, 0)] * 4
    for axis, (size, out) in enumerate(zip(x.shape[1:3], (rows, cols)), start=1):
        low = kernel - 1 - same_padding(size, kernel, stride)[0]
        pads[axis] = (low, size + kernel - 1 - low - ((out - 1) * stride + 1), stride - 1)
    # The barrier keeps what made `grad` from being computed again for every tap.
    grad = jax.lax.optimization_barrier(jax.lax.pad(grad, jnp.zeros((), grad.dtype), pads))
    return _weighed(weights[::-1], _taps(grad, kernel, 1, *x.shape[1:3])), d_weights


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)


class DepthwiseConv(nn.Module):
    kernel: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.kernel, self.kernel, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        return depthwise_conv(x, kernel.reshape(-1, channels), self.kernel, self.stride) + bias


class StemConv(nn.Module):
    """The dense 3x3 stride 2 convolution at the entrance, as one matrix product over gathered neighbours."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width 3"]) -> Array:
        rows, cols = (-(-n // 2) for n in x.shape[1:3])
        neighbours = jnp.concatenate(_taps(_padded(x, 3, 2), 3, 2, rows, cols), axis=-1)
        return nn.Dense(self.features, name="dense")(neighbours)


class Block(nn.Module):
    """Inverted bottleneck: expand, depthwise, project; the input is added where the shapes agree."""

    kernel: int
    stride: int
    expansion: int
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Array:
        hidden = x
        if self.expansion != 1:
            hidden = nn.relu6(nn.Dense(x.shape[-1] * self.expansion, name="expand")(hidden))
        hidden = nn.relu6(DepthwiseConv(self.kernel, self.stride, name="depthwise")(hidden))
        hidden = nn.Dense(self.features, name="project")(hidden)
        return hidden + x if hidden.shape == x.shape else hidden


class EfficientNetLite0(nn.Module):
    """The network, fully convolutional; 224 px is the size it was trained at.

    Images are float in [-1, 1], `(batch, height, width, 3)`. With `taps` the result is the list of maps after
    those blocks (0 is the stem, k the k-th of the 16 blocks) and nothing after the last of them is computed.
    Without, it is `(features, logits)`: 1280 average-pooled features and 1000 logits.
    """

    num_classes: int = 1000

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width 3"], taps: tuple[int, ...] = ()):
        if any(not 0 <= tap <= len(BLOCKS) for tap in taps):
            raise ValueError(f"taps are {taps}; each must be 0 (the stem) to {len(BLOCKS)} (the last block).")
        # The network was trained on (pixel - 127) / 128; pixel is (images + 1) * 127.5.
        x = nn.relu6(StemConv(32, name="stem")(images * (127.5 / 128) + 0.5 / 128))
        maps = {0: x}
        for number, (kernel, stride, expansion, features) in enumerate(BLOCKS, start=1):
            if taps and number > max(taps):
                break
            x = Block(kernel, stride, expansion, features, name=f"block_{number}")(x)
            maps[number] = x
        if taps:
            return [maps[tap] for tap in taps]
        x = nn.relu6(nn.Dense(1280, name="head")(x))
        pooled = x.mean(axis=(1, 2))
        return pooled, nn.Dense(self.num_classes, name="classifier")(pooled)
