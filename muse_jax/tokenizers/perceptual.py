"""Perceptual loss: distance of two images in the feature maps of a pretrained EfficientNet-Lite0.

It is LPIPS without learned weights (Zhang et al., CVPR 2018, eq. 1 with w = 1): normalize the channels of
each position, take squared differences, average over space and sum over stages.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from muse_jax.interop.efficientnet_lite import load_efficientnet_lite0
from muse_jax.nn.efficientnet_lite import EfficientNetLite0
from muse_jax.nn.shapes import abstract_params

# The last maps at 1/2, 1/4, 1/8 and 1/16 of the image's size, and the stem for fine texture.
TAPS = (0, 1, 3, 5, 11)


def perceptual_distance(maps: list[Array], target_maps: list[Array]) -> Float[Array, " batch"]:
    """Distance of two lists of feature maps, one per stage.

    Each stage adds the mean over space of the squared distance of normalized channels, in [0, 4].
    """
    stages = [
        jnp.mean(jnp.sum((_unit(a) - _unit(b)) ** 2, -1), (1, 2))
        for a, b in zip(maps, target_maps, strict=True)
    ]
    return jnp.sum(jnp.stack(stages), axis=0)


def _unit(x: Float[Array, "batch height width channels"]) -> Array:
    # The epsilon inside the root keeps the gradient finite where all channels are zero.
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-6)


def load_perceptual(taps: tuple[int, ...] = TAPS) -> Any:
    """Loads the frozen weights that `perceptual_loss` needs for the same `taps`.

    Raises:
      ValueError: if the package with the weights is not installed.
    """
    return _needed(load_efficientnet_lite0(), taps)


def perceptual_shapes(taps: tuple[int, ...] = TAPS) -> Any:
    """Shapes of the weights that `load_perceptual` gives, without reading them."""
    return _needed(abstract_params(EfficientNetLite0(), jnp.zeros((1, 32, 32, 3))), taps)


def _needed(params: Any, taps: tuple[int, ...]) -> Any:
    if not taps:
        return params
    kept = {"stem", *(f"block_{k}" for k in range(1, max(taps) + 1))}
    return {name: value for name, value in params.items() if name in kept}


def perceptual_loss(
    params: Any,
    images: Float[Array, "batch height width 3"],
    targets: Float[Array, "batch height width 3"],
    taps: tuple[int, ...] = TAPS,
    upsample: int = 1,
) -> Float[Array, ""]:
    """Mean perceptual distance of a batch of images to their targets, float32.

    Args:
      params: from `load_perceptual`.
      images: in [-1, 1], at least 32 px a side.
      targets: in [-1, 1], of the same shape.
      taps: stages compared (0 is the stem, k the k-th of 16 blocks); nothing after the last is computed.
      upsample: factor by which images are enlarged before the network; the cost grows with its square.

    Raises:
      ValueError: if images and targets differ in shape.
    """
    if images.shape != targets.shape or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            f"images {images.shape} and targets {targets.shape} must share one (batch, height, width, 3)."
        )

    def maps(x: Array) -> list[Array]:
        x = x.astype(jnp.float32)
        if upsample > 1:
            batch, height, width, channels = x.shape
            x = jax.image.resize(x, (batch, height * upsample, width * upsample, channels), "bilinear")
        return EfficientNetLite0().apply({"params": params}, x, taps=taps)

    return perceptual_distance(maps(images), maps(targets)).mean()
