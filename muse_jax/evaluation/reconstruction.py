"""How much of a picture a tokenizer keeps: PSNR, SSIM, and how many of its codes are in use."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import correlate1d

from muse_jax.media.image import from_unit_range, to_unit_range


def psnr(
    images: UInt8[np.ndarray, "batch height width channels"],
    targets: UInt8[np.ndarray, "batch height width channels"],
) -> Float[np.ndarray, " batch"]:
    """Peak signal-to-noise ratio of each pair of uint8 pictures, in dB; 100 for equal pictures."""
    _check_pair(images, targets)
    error = np.mean((images.astype(np.float64) - targets) ** 2, axis=(1, 2, 3))
    return 10 * np.log10(255.0**2 / np.maximum(error, 255.0**2 * 1e-10))


def _gaussian_window(size: int = 11, sigma: float = 1.5) -> np.ndarray:
    window = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    return window / window.sum()


def ssim(
    images: UInt8[np.ndarray, "batch height width channels"],
    targets: UInt8[np.ndarray, "batch height width channels"],
) -> Float[np.ndarray, " batch"]:
    """Structural similarity of each pair (Wang et al., 2004): 11x11 Gaussian window of sigma 1.5.

    K1 = 0.01, K2 = 0.03, range 255; only whole windows count, and the channels are averaged.

    Raises:
      ValueError: pictures under 11 px, or of two shapes.
    """
    _check_pair(images, targets)
    if min(images.shape[1:3]) < 11:
        raise ValueError(f"SSIM needs pictures of at least 11 px; these are {images.shape[1:3]}.")
    window = _gaussian_window()

    def blur(x: np.ndarray) -> np.ndarray:
        x = correlate1d(correlate1d(x, window, axis=1), window, axis=2)
        return x[:, 5:-5, 5:-5]

    x, y = images.astype(np.float64), targets.astype(np.float64)
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (likeness / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean((1, 2, 3))


def _check_pair(images: np.ndarray, targets: np.ndarray) -> None:
    if images.shape != targets.shape or images.ndim != 4:
        raise ValueError(
            f"Pictures of shape {images.shape} and {targets.shape}; give one shape (batch, height, width, 3)."
        )
    if images.dtype != np.uint8 or targets.dtype != np.uint8:
        raise ValueError(f"Pictures are {images.dtype} and {targets.dtype}; both must be uint8.")


def code_statistics(ids: np.ndarray, codebook_size: int) -> dict[str, float]:
    """`usage`, the share of codes that occur, and `perplexity`, exp of the entropy of their frequencies."""
    counts = np.bincount(np.asarray(ids).ravel(), minlength=codebook_size)
    frequency = counts[counts > 0] / counts.sum()
    return {
        "code_usage": float(np.mean(counts > 0)),
        "code_perplexity": float(np.exp(-np.sum(frequency * np.log(frequency)))),
    }


def reconstruct(
    vqgan: Any,
    params: Any,
    images: Sequence[np.ndarray] | np.ndarray,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, UInt8[np.ndarray, "count height width 3"]]:
    """Token ids `(count, h, w)` and reconstructions of uint8 pictures of one size.

    Raises:
      ValueError: no pictures, or a size that the tokenizer cannot take.
    """
    if not len(images):
        raise ValueError("There are no pictures to reconstruct; give at least one.")

    @jax.jit
    def round_trip(params: Any, images: Any):
        ids = vqgan.encode(params, to_unit_range(images))
        return ids, from_unit_range(vqgan.decode(params, ids))

    all_ids, rebuilt = [], []
    for start in range(0, len(images), batch_size):
        batch = np.stack(list(images[start : start + batch_size]))
        count = len(batch)
        padded = np.concatenate([batch, np.repeat(batch[-1:], batch_size - count, axis=0)])
        ids, pictures = round_trip(params, padded)
        all_ids.append(np.asarray(ids)[:count])
        rebuilt.append(np.asarray(pictures)[:count])
        if progress is not None:
            progress(start + count, len(images))
    return np.concatenate(all_ids), np.concatenate(rebuilt)


def evaluate_tokenizer(
    vqgan: Any, params: Any, images: Sequence[np.ndarray] | np.ndarray, batch_size: int = 32
) -> dict[str, float]:
    """Means over uint8 pictures of one size: `psnr` (dB), `ssim`, `code_usage`, `code_perplexity`, `count`.

    Args:
      vqgan: the `VQGAN` module.
      params: its weights.
      images: `(count, height, width, 3)`; code usage counts the codes met in these pictures alone, so few
        pictures bound it from above by their number of tokens.
      batch_size: pictures a device call.
    """
    ids, rebuilt = reconstruct(vqgan, params, images, batch_size)
    targets = np.stack(list(images))
    return {
        "psnr": float(psnr(rebuilt, targets).mean()),
        "ssim": float(ssim(rebuilt, targets).mean()),
        **code_statistics(ids, vqgan.codebook_size),
        "count": len(targets),
    }
