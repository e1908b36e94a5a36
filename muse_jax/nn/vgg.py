"""Convolutional layers of VGG-16 (Simonyan and Zisserman 2015), for the perceptual distance LPIPS."""

from typing import Any

import jax.numpy as jnp
from einops import reduce
from flax import linen as nn
from jaxtyping import Array, Float

STAGES: tuple[tuple[int, int], ...] = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""Number of convolutions of each stage and their width; every stage but the first starts by halving."""


def _halve(x: Float[Array, "batch height width c"]) -> Float[Array, "batch height/2 width/2 c"]:
    """2x2 max pooling; unlike that of `nn.max_pool`, its gradient needs no scatter."""
    height, width = (side // 2 * 2 for side in x.shape[1:3])
    return reduce(x[:, :height, :width], "b (h p) (w q) c -> b h w c", "max", p=2, q=2)


def normalize_images(images: Float[Array, "batch height width 3"]) -> Float[Array, "batch height width 3"]:
    """LPIPS's normalization: ImageNet's means and deviations for images in [-1, 1]."""
    return (images - jnp.array([-0.030, -0.088, -0.188])) / jnp.array([0.458, 0.448, 0.450])


class VGG16(nn.Module):
    """VGG-16 features of images in [-1, 1]: the last map of each of the first `stages` stages, after ReLU."""

    stages: int = len(STAGES)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width 3"]) -> list[Float[Array, "batch h w c"]]:
        x, maps, index = normalize_images(images).astype(self.dtype), [], 0
        for stage, (count, width) in enumerate(STAGES[: self.stages]):
            if stage > 0:
                x = _halve(x)
            for _ in range(count):
                x = nn.relu(nn.Conv(width, (3, 3), dtype=self.dtype, name=f"conv_{index}")(x))
                index += 1
            maps.append(x)
        return maps
