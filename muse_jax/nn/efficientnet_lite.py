"""EfficientNet-Lite0 for inference: a small ImageNet network whose features measure images.

Tan and Le, "EfficientNet" (ICML 2019), in its Lite form: no squeeze-and-excitation, ReLU6 throughout. Batch
normalisation is folded into the convolutions (see `muse_jax.interop.efficientnet_lite`).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from muse_jax.nn.convolutions import depthwise_conv, shifted_views

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


class DepthwiseConv(nn.Module):
    """Depthwise convolution with a bias."""

    kernel: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.kernel, self.kernel, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        return depthwise_conv(x, kernel.reshape(-1, channels), self.kernel, self.stride) + bias


class StemConv(nn.Module):
    """First layer: a dense 3x3 convolution of stride 2, as one matrix product over gathered neighbours."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width 3"]) -> Array:
        neighbours = jnp.concatenate(shifted_views(x, 3, 2), axis=-1)
        return nn.Dense(self.features, name="dense")(neighbours)


class Block(nn.Module):
    """Inverted bottleneck: expand, depthwise, project; residual where input and output have one shape."""

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
    """EfficientNet-Lite0, fully convolutional; trained at 224 px.

    Called with float images in [-1, 1], `(batch, height, width, 3)`. It returns `(features, logits)`: 1280
    average-pooled features and 1000 logits. With `taps`, it returns the maps after those blocks instead (0 is
    the stem, k the k-th of 16 blocks) and computes nothing beyond the last of them.

    Raises:
      ValueError: if a tap is not in 0 to 16.
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
