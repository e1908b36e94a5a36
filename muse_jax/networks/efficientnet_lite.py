"""EfficientNet-Lite0 for inference: a small ImageNet network whose features measure pictures.

Tan and Le, "EfficientNet" (ICML 2019), in its Lite form: no squeeze-and-excitation, ReLU6 throughout. Batch
normalisation is folded into the convolutions (see `muse_jax.interop.efficientnet_lite`).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
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
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME" padding: the odd zero goes to the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _taps(x: Array, kernel: int, stride: int) -> list[Array]:
    """The kernel * kernel shifted (and strided) views of `x` that a convolution weighs, row by row."""
    height, width = x.shape[1:3]
    rows, cols = -(-height // stride), -(-width // stride)
    pad = [same_padding(n, kernel, stride) for n in (height, width)]
    x = jnp.pad(x, ((0, 0), pad[0], pad[1], (0, 0)))
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


class DepthwiseConv(nn.Module):
    """Depthwise convolution written as shifted multiply-adds: one fused loop, where grouped convolutions are slow."""

    kernel: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.kernel, self.kernel, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        weights = kernel.reshape(-1, channels)
        return sum(w * tap for w, tap in zip(weights, _taps(x, self.kernel, self.stride))) + bias


class StemConv(nn.Module):
    """The dense 3x3 stride 2 convolution at the entrance, as one matrix product over gathered neighbours."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width 3"]) -> Array:
        neighbours = jnp.concatenate(_taps(x, 3, 2), axis=-1)
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

    Images are float in [-1, 1], `(batch, height, width, 3)`; ImageNet's normalisation happens inside. With `taps` the
    result is the list of maps after those blocks (0 is the stem, k the k-th of the 16 blocks) and nothing after
    the last of them is computed. Without, it is `(features, logits)`: 1280 average-pooled features and 1000 logits.
    """

    num_classes: int = 1000

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width 3"], taps: tuple[int, ...] = ()):
        if any(not 0 <= tap <= len(BLOCKS) for tap in taps):
            raise ValueError(f"taps are {taps}; each must be 0 (the stem) to {len(BLOCKS)} (the last block).")
        mean = np.asarray(IMAGENET_MEAN, np.float32) * 2 - 1
        std = np.asarray(IMAGENET_STD, np.float32) * 2
        x = nn.relu6(StemConv(32, name="stem")((images - mean) / std))
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
