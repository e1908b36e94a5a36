"""Perceptual loss: the distance of two images in the early and middle maps of a pretrained network.

The form is LPIPS without its learned weights (Zhang et al., CVPR 2018, eq. 1 with w = 1): unit-normalise
every position's channels, take squared differences, average over space, sum over stages.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from muse_jax.interop.efficientnet_lite import load_efficientnet_lite0
from muse_jax.nn.efficientnet_lite import EfficientNetLite0
from muse_jax.nn.shapes import abstract_params

# The last map at 1/2, 1/4, 1/8 and 1/16 of the image's size, and the stem for fine texture.
TAPS = (0, 1, 3, 5, 11)


def perceptual_distance(maps: list[Array], target_maps: list[Array]) -> Float[Array, " batch"]:
    """Sum over stages of the mean over space of the unit-normalised channels' squared distance, in [0, 4]."""
    stages = [jnp.mean(jnp.sum((_unit(a) - _unit(b)) ** 2, -1), (1, 2)) for a, b in zip(maps, target_maps)]
    return jnp.sum(jnp.stack(stages), axis=0)


def _unit(x: Float[Array, "batch height width channels"]) -> Array:
    # The epsilon inside the root keeps the gradient finite where all channels are zero.
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-6)


def load_perceptual(taps: tuple[int, ...] = TAPS) -> Any:
    """The weights of the frozen network that `perceptual_loss` over the same `taps` takes.

    Raises:
      ValueError: the package with the weights is not installed.
    """
    return _needed(load_efficientnet_lite0(), taps)


def perceptual_shapes(taps: tuple[int, ...] = TAPS) -> Any:
    """The shapes of those weights; nothing is read."""
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
    """Mean distance of a batch of images to their targets, float32.

    Args:
      params: from `load_perceptual`.
      images, targets: in [-1, 1], of any size from 32 px.
      taps: the stages compared (0 is the stem, k the k-th block of 16); nothing after the last is computed.
      upsample: enlarges images this many times before the network. It costs the square of it.

    Raises:
      ValueError: the two differ in shape.
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
