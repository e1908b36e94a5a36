"""EfficientNet-Lite0 features of images: pooled ones for content, early maps and colours for style."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from muse_jax.interop.efficientnet_lite import load_efficientnet_lite0
from muse_jax.media.image import to_unit_range
from muse_jax.nn.efficientnet_lite import EfficientNetLite0

INPUT_SIZE = 224
FEATURE_DIM = 1280
STYLE_TAPS = (0, 1, 3, 5, 8, 11)
_COLOUR_LEVELS = 8

Images = Sequence[np.ndarray] | np.ndarray
ProgressFn = Callable[[int, int], None]


@jax.jit
def _resize(images: UInt8[Array, "batch height width 3"]) -> Float[Array, "batch 224 224 3"]:
    shape = (images.shape[0], INPUT_SIZE, INPUT_SIZE, 3)
    return jnp.clip(jax.image.resize(to_unit_range(images), shape, "bicubic", antialias=True), -1, 1)


@jax.jit
def _pooled(params, images: Float[Array, "batch 224 224 3"]) -> Float[Array, "batch 1280"]:
    return EfficientNetLite0().apply({"params": params}, images)[0]


@jax.jit
def _style(params, images: UInt8[Array, "batch height width 3"]) -> Float[Array, "batch features"]:
    maps = EfficientNetLite0().apply({"params": params}, to_unit_range(images), taps=STYLE_TAPS)
    moments = [part for x in maps for part in (x.mean((1, 2)), x.std((1, 2)))]
    levels = images.astype(jnp.int32) * _COLOUR_LEVELS // 256
    colours = (levels[..., 0] * _COLOUR_LEVELS + levels[..., 1]) * _COLOUR_LEVELS + levels[..., 2]
    pixels = colours.reshape(len(images), -1)
    histogram = jax.vmap(lambda c: jnp.bincount(c, length=_COLOUR_LEVELS**3))(pixels) / pixels.shape[1]
    return jnp.concatenate([*moments, jnp.sqrt(histogram)], axis=-1)


def extract_features(
    images: Images, batch_size: int = 32, progress: ProgressFn | None = None
) -> Float[np.ndarray, "count 1280"]:
    """Pooled features of uint8 images, resized to 224 px (bicubic, antialiased), in their order.

    Args:
      images: `(count, height, width, 3)`, or a list of `(height, width, 3)` of any sizes; each size
        compiles once.
      batch_size: images per device call.
      progress: called with (images done, all images) after each batch.

    Raises:
      ValueError: an image is not uint8 `(height, width, 3)`, or the network's package is not installed.
    """
    return _in_batches(lambda params, batch: _pooled(params, _resize(batch)), images, batch_size, progress)


def extract_style_features(
    images: Images, batch_size: int = 32, progress: ProgressFn | None = None
) -> Float[np.ndarray, "count features"]:
    """Style features of uint8 images, for `StyleClassifier`.

    Means and standard deviations over space of early and middle maps at the image's own size, and square
    roots of an 8x8x8 colour histogram. Features pooled for 1000 object classes hardly see a drawing's style.
    Compare images of one size only. Arguments and errors as in `extract_features`.
    """
    return _in_batches(_style, images, batch_size, progress)


def _in_batches(
    function: Callable, images: Images, batch_size: int, progress: ProgressFn | None
) -> np.ndarray:
    """float32 rows of `function(params, batch)`, one per image; images of one size share batches."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
    if not len(images):
        raise ValueError("There are no images to embed; give at least one.")
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(f"Image {index} is {image.dtype} {image.shape}; give uint8 (height, width, 3).")
        by_shape[image.shape].append(index)
    params = jax.device_put(load_efficientnet_lite0())
    rows: list[np.ndarray | None] = [None] * len(images)
    done = 0
    for indices in by_shape.values():
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            # The last batch repeats an image, so that all batches share one compilation.
            padded = chosen + chosen[-1:] * (batch_size - len(chosen))
            result = np.asarray(function(params, np.stack([images[i] for i in padded])), np.float32)
            for index, row in zip(chosen, result, strict=False):
                rows[index] = row
            done += len(chosen)
            if progress is not None:
                progress(done, len(images))
    return np.stack([row for row in rows if row is not None])
