"""Media: images, videos and audio, from stored bytes to examples of equal shape, and to files to look at."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from muse_jax.media.audio import Audio, AudioModality
from muse_jax.media.image import ImageModality, Images
from muse_jax.media.video import Video, VideoModality

__all__ = [
    "Audio",
    "AudioModality",
    "ImageModality",
    "Images",
    "Medium",
    "Modality",
    "Video",
    "VideoModality",
    "as_medium",
]

Medium = Images | Video | Audio


class Modality(Protocol):
    """Makes one field of records into arrays of equal shape that batches can hold."""

    def fit(self, record: Mapping[str, Any]) -> np.ndarray:
        """The deterministic part, whose result a loader may cache."""

    def draw(self, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The random part, for each example anew; its result has the final shape."""


def as_medium(value: Any) -> Medium:
    """Names the medium of an array: uint8 (n, h, w, 3) is `Images`, uint8 (n, frames, h, w, 3) is `Video`.

    Args:
      value: an array, or a medium, which is returned unchanged.

    Raises:
      ValueError: an array that is neither.
    """
    if isinstance(value, Medium):
        return value
    shape, dtype = np.shape(value), np.asarray(value).dtype
    if dtype == np.uint8 and len(shape) in (4, 5) and shape[-1] == 3:
        return Images(value) if len(shape) == 4 else Video(value)
    raise ValueError(
        f"a preview is an array of type {dtype} and shape {shape}: give uint8 images (n, height, width, 3), "
        "uint8 videos (n, frames, height, width, 3), or an Audio."
    )
