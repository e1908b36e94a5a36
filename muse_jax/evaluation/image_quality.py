"""Similarity of images to their originals: PSNR and SSIM."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

_WINDOW, _SIGMA = 11, 1.5
MIN_SSIM_SIZE = _WINDOW


def psnr(
    images: UInt8[Array, "batch height width channels"], targets: UInt8[Array, "batch height width channels"]
) -> Float[Array, " batch"]:
    """Peak signal-to-noise ratio of each pair of uint8 images, in dB; 100 for equal images."""
    _check_pair(images, targets)
    return peak_signal_to_noise(images.astype(jnp.float32), targets.astype(jnp.float32), 255.0)


def peak_signal_to_noise(
    images: Float[Array, "batch height width channels"],
    targets: Float[Array, "batch height width channels"],
    peak: float,
) -> Float[Array, " batch"]:
    """Peak signal-to-noise ratio of each pair in dB, for values in a range of width `peak`; at most 100."""
    error = jnp.mean((images - targets) ** 2, axis=(1, 2, 3))
    return 10 * jnp.log10(peak**2 / jnp.maximum(error, peak**2 * 1e-10))


def ssim(
    images: UInt8[Array, "batch height width channels"], targets: UInt8[Array, "batch height width channels"]
) -> Float[Array, " batch"]:
    """Structural similarity of each pair (Wang et al., 2004): 11x11 Gaussian window of sigma 1.5.

    K1 = 0.01, K2 = 0.03, range 255; only whole windows count, and the channels are averaged.

    Raises:
      ValueError: images smaller than 11 px, or of two shapes or types.
    """
    _check_pair(images, targets)
    if min(images.shape[1:3]) < _WINDOW:
        raise ValueError(f"SSIM needs images of at least {_WINDOW} px, but these have {images.shape[1:3]}.")
    # Centred on mid-grey, so that the differences of squares below keep their digits in float32.
    x, y = (each.astype(jnp.float32) - 128 for each in (images, targets))
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + 128, mean_y + 128
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (similarity / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean((1, 2, 3))


def _blur(x: Float[Array, "b h w c"]) -> Float[Array, "b hh ww c"]:
    """Gaussian mean over each whole window."""
    window = jnp.exp(-((jnp.arange(_WINDOW) - _WINDOW // 2) ** 2) / (2 * _SIGMA**2))
    window = window / window.sum()
    for axis in (1, 2):
        count = x.shape[axis] - _WINDOW + 1
        parts = [window[k] * jax.lax.slice_in_dim(x, k, k + count, axis=axis) for k in range(_WINDOW)]
        x = sum(parts[1:], parts[0])
    return x


def _check_pair(images: Array, targets: Array) -> None:
    if images.shape != targets.shape or images.ndim != 4:
        raise ValueError(
            f"Images have shapes {images.shape} and {targets.shape}; give both of one shape "
            "(batch, height, width, 3)."
        )
    if images.dtype != jnp.uint8 or targets.dtype != jnp.uint8:
        raise ValueError(f"Images are {images.dtype} and {targets.dtype}; both must be uint8.")
