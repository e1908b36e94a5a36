"""Pooled EfficientNet-Lite0 features of pictures: what distances and retrieval are measured on."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from muse_jax.images import to_unit_range
from muse_jax.interop.efficientnet_lite import load_efficientnet_lite0
from muse_jax.networks.efficientnet_lite import EfficientNetLite0

FEATURE_DIM = 1280
INPUT_SIZE = 224


@jax.jit
def _resize(images: UInt8[Array, "batch height width 3"]) -> Float[Array, "batch 224 224 3"]:
    shape = (images.shape[0], INPUT_SIZE, INPUT_SIZE, 3)
    return jnp.clip(jax.image.resize(to_unit_range(images), shape, "bicubic", antialias=True), -1, 1)


@jax.jit
def _pooled(params, images: Float[Array, "batch 224 224 3"]) -> Float[Array, "batch 1280"]:
    return EfficientNetLite0().apply({"params": params}, images)[0]


def extract_features(
    images: Sequence[np.ndarray] | np.ndarray,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "count 1280"]:
    """Features of uint8 pictures, resized to 224 px (bicubic, antialiased); float32, in the order given.

    Args:
      images: `(count, height, width, 3)`, or a list of `(height, width, 3)` of any sizes; each size met is
        one small compilation.
      batch_size: pictures a device call.
      progress: called with (pictures done, pictures in all) after each batch.

    Raises:
      ValueError: a picture is not uint8 `(height, width, 3)`, or the network's package is not installed.
    """
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(
                f"Picture {index} is {image.dtype} {image.shape}; give uint8 (height, width, 3)."
            )
        by_shape[image.shape].append(index)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
    params = jax.device_put(load_efficientnet_lite0())
    result = np.empty((len(images), FEATURE_DIM), np.float32)
    done = 0
    for indices in by_shape.values():
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            # The last batch repeats a picture: one shape, one compilation.
            padded = chosen + chosen[-1:] * (batch_size - len(chosen))
            batch = np.stack([images[i] for i in padded])
            result[chosen] = np.asarray(_pooled(params, _resize(batch)))[: len(chosen)]
            done += len(chosen)
            if progress is not None:
                progress(done, len(images))
    return result
