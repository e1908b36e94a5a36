"""I3D, Inception-v1 with 3D convolutions (Carreira and Zisserman, 2017), as the FVD uses it.

Batch norm is folded into the convolutions, as `muse_jax.interop.i3d` reads them.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

SIZE = 224
CLASSES = 400
MIN_FRAMES = 9
"""Strides leave an eighth of the frames, rounded up, and the last pool wants two."""
Volume = Float[Array, "b t h w c"]

# Features of each mixed block: 1x1x1; before and after 3x3x3, twice; after the pool.
_BLOCKS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
_POOLS = {"Mixed_4b": 3, "Mixed_5b": 2}  # window of the pool of stride 2 before a block


class Convolution(nn.Module):
    """Convolution and ReLU, with TensorFlow's padding "SAME"."""

    features: int
    kernel: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x: Volume) -> Volume:
        kernel, stride = (self.kernel,) * 3, (self.stride,) * 3
        return nn.relu(nn.Conv(self.features, kernel, stride, "SAME", name="conv3d")(x))


def _pool(x: Volume, window: int, stride: int) -> Volume:
    return nn.max_pool(x, (window,) * 3, (stride,) * 3, "SAME")


def _pool_frames(x: Volume) -> Volume:
    return nn.max_pool(x, (1, 3, 3), (1, 2, 2), "SAME")


class Mixed(nn.Module):
    """Branches of 1x1x1 and 3x3x3 convolutions and a pool, side by side."""

    features: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Volume) -> Volume:
        one, before_first, first, before_second, second, pooled = self.features
        branches = [
            Convolution(one, name="b0")(x),
            Convolution(first, 3, name="b1b")(Convolution(before_first, name="b1a")(x)),
            Convolution(second, 3, name="b2b")(Convolution(before_second, name="b2a")(x)),
            Convolution(pooled, name="b3b")(_pool(x, 3, 1)),
        ]
        return jnp.concatenate(branches, -1)


class I3D(nn.Module):
    """Logits of Kinetics-400, the mean over time."""

    @nn.compact
    def __call__(self, clips: Float[Array, "b t 224 224 3"]) -> Float[Array, "b 400"]:
        """Embeds clips in [-1, 1], of `MIN_FRAMES` frames or more."""
        x = _pool_frames(Convolution(64, 7, 2, name="Conv3d_1a_7x7")(clips))
        x = Convolution(192, 3, name="Conv3d_2c_3x3")(Convolution(64, name="Conv3d_2b_1x1")(x))
        x = _pool_frames(x)
        for name, features in _BLOCKS.items():
            if name in _POOLS:
                x = _pool(x, _POOLS[name], 2)
            x = Mixed(features, name=name)(x)
        windows = nn.avg_pool(x, (2, SIZE // 32, SIZE // 32))
        return nn.Dense(CLASSES, name="logits")(jnp.mean(windows, axis=(1, 2, 3)))
