"""Blurring and resizing of images to the input of a feature network.

The way of resizing changes a Fréchet distance by more than models differ (Parmar et al., CVPR 2022), so that
its name is a part of the figure's name:

  tf1: bilinear without antialiasing and without half-pixel centers, as TensorFlow 1 does.
  clean: bicubic and antialiased, on floats, as PIL does.
  none: the images as they are.

Images may be blurred before, at their own size. DALL-E, CogView and CogView2 report FID-k, the distance of
images that a Gaussian filter of radius k has blurred, so that details which their tokenizers lose do not
count. Those papers give the radius only. Here the filter is the one that LAFITE's authors state for their
FID-k: 2 k + 1 pixels wide and high, standard deviation sqrt(((2 k + 1)^2 - 1) / 12), which is that of a box
of this width; borders are mirrored without repeating the outermost pixel, and values are not rounded.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

MODES = ("tf1", "clean", "none")


def resize_images(
    images: UInt8[Array, "b height width 3"], size: int, mode: str, blur: int = 0
) -> Float[Array, "b new_height new_width 3"]:
    """Resizes images to `size` x `size` pixels.

    Args:
      mode: one of `MODES`.
      blur: radius of the Gaussian filter before, in pixels of `images`; 0: none.

    Returns:
      float32 in [0, 255].
    """
    x = images.astype(jnp.float32)
    if mode == "none" and not blur:
        return x
    vertical, horizontal = (jnp.asarray(_matrix(side, size, mode, blur)) for side in images.shape[1:3])
    highest = jax.lax.Precision.HIGHEST
    x = jnp.einsum("bhwc,vw->bhvc", x, horizontal, precision=highest)
    x = jnp.einsum("bhvc,uh->buvc", x, vertical, precision=highest)
    return jnp.clip(x, 0, 255)


def _matrix(old: int, new: int, mode: str, blur: int) -> Float[np.ndarray, "new old"]:
    """Weights of each old pixel in each new one."""
    resize = np.eye(old) if mode == "none" else _RESIZERS[mode](old, new)
    return (resize @ _blur_matrix(old, blur)).astype(np.float32) if blur else resize


def _blur_matrix(side: int, radius: int) -> Float[np.ndarray, "side side"]:
    """Weights of each pixel in each blurred one."""
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-(offsets**2) * 6 / ((2 * radius + 1) ** 2 - 1))
    mirrored = np.pad(np.eye(side), ((radius, radius), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(mirrored, 2 * radius + 1, axis=0)
    return windows @ (weights / weights.sum())


@functools.cache
def _tf1_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Weights of each old pixel in each new one."""
    position = np.arange(new, dtype=np.float32) * np.float32(old / new)
    low = position.astype(int)
    high, fraction = np.minimum(low + 1, old - 1), position - low
    matrix = np.zeros((new, old), np.float32)
    np.add.at(matrix, (np.arange(new), low), 1 - fraction)
    np.add.at(matrix, (np.arange(new), high), fraction)
    return matrix


@functools.cache
def _bicubic_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Weights of each old pixel in each new one: Keys' kernel with a = -0.5, widened where it shrinks."""
    scale = max(old / new, 1.0)
    center = (np.arange(new)[:, None] + 0.5) * old / new
    pixel = np.arange(old)[None]
    # PIL cuts the support to whole pixels.
    inside = (pixel >= np.maximum(np.trunc(center - 2 * scale + 0.5), 0)) & (
        pixel < np.minimum(np.trunc(center + 2 * scale + 0.5), old)
    )
    x = np.abs((pixel - center + 0.5) / scale)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0)) * inside
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


_RESIZERS = {"tf1": _tf1_matrix, "clean": _bicubic_matrix}
