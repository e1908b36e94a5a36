"""Measures of clips: features over time, the direction of a motion, and clips generated for captions."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from muse_jax.data.motion import DIRECTIONS
from muse_jax.evaluation.evaluators import Context
from muse_jax.evaluation.features import FEATURE_DIM, extract_features
from muse_jax.evaluation.samples import SampleFn, generate_images

CLIP_DIM = 2 * FEATURE_DIM
_STILL = 2.0  # pixels of 64 from the first to the last frame, below which nothing moves
_FAINT = 24  # levels of 255 that noise and compression leave on a plain background

Clips = UInt8[np.ndarray, "n frames height width 3"]


def clip_features(clips: Clips) -> Float[np.ndarray, "n 2560"]:
    """EfficientNet-Lite0's features of clips, which see what moves but not which way.

    They are the mean over frames and the mean absolute difference of successive frames; the latter is 0 for a
    single frame.
    """
    n, frames = clips.shape[:2]
    features = extract_features(clips.reshape(-1, *clips.shape[2:])).reshape(n, frames, FEATURE_DIM)
    change = np.abs(np.diff(features, axis=1)).sum(axis=1) / max(frames - 1, 1)
    return np.concatenate([features.mean(axis=1), change], axis=1)


def centroids(clip: UInt8[np.ndarray, "frames height width 3"]) -> Float[np.ndarray, "frames 2"]:
    """Column and row, in pixels, of the mean of what differs from the background, for each frame.

    The background is the median colour of the frames' borders. A frame that shows nothing else has NaN.
    """
    border = np.concatenate([clip[:, 0], clip[:, -1], clip[:, :, 0], clip[:, :, -1]], axis=1)
    background = np.median(border.reshape(-1, 3), axis=0)
    weights = np.abs(clip - background).max(axis=-1)
    weights[weights < _FAINT] = 0
    total = weights.sum(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        columns = (weights.sum(axis=1) * np.arange(clip.shape[2])).sum(axis=1) / total
        rows = (weights.sum(axis=2) * np.arange(clip.shape[1])).sum(axis=1) / total
    return np.stack([columns, rows], axis=1)


def direction_of(clip: UInt8[np.ndarray, "frames height width 3"]) -> str:
    """The one of eight directions that a clip's content moves in, "" if it stands still or is not seen.

    The motion is the slope of the centroid over the frames, by least squares.
    """
    path = centroids(clip)
    seen = ~np.isnan(path).any(axis=1)
    if seen.sum() < 2:
        return ""
    times = np.flatnonzero(seen)
    slope = np.polyfit(times, path[seen], 1)[0]
    if np.hypot(*slope) * (len(clip) - 1) < _STILL * clip.shape[2] / 64:
        return ""
    octant = round(math.atan2(slope[1], slope[0]) / (math.pi / 4)) % 8
    step = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)][octant]
    return next(name for name, way in DIRECTIONS.items() if way == step)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Clips of one split's records.

    Attributes:
      records: the records of the source.
      real: their clips.
      rebuilt: the same through the task's tokenizer, None if it has none.
      generated: clips for their captions.
    """

    records: list[dict[str, Any]]
    real: Clips
    rebuilt: Clips | None
    generated: Clips

    def rows(self) -> dict[str, Clips]:
        """The clips to measure, by the name of their row in a table."""
        rows = {"generated": self.generated, "tokenizer": self.rebuilt, "real": self.real}
        return {name: clips for name, clips in rows.items() if clips is not None}


def generate_clips(
    sample: SampleFn,
    context: Context,
    params: Any,
    frozen: Any,
    source: Any,
    split: str,
    count: int,
    seed: int,
) -> Measured:
    """Clips for the first `count` captions of a split, beside the real ones.

    Args:
      sample: from `samples.jit_sample`.
      source: the source of the split, whose records have "video" in the size of the generated clips.
    """
    batches = generate_images(sample, context, params, frozen, split, count, seed)
    indices, clips = zip(*batches, strict=True)
    records = [source[int(index)] for index in np.concatenate(indices)]
    generated = np.concatenate(clips)
    real = np.stack([record["video"][: generated.shape[1]] for record in records])
    if real.shape != generated.shape:
        raise ValueError(
            f"Generated clips have the shape {generated.shape[1:]}, but those of config.data.source have "
            f"{real.shape[1:]}: evaluate on a source of that size."
        )
    return Measured(records, real, rebuild(context, frozen, real, len(clips[0])), generated)


def rebuild(context: Context, frozen: Any, clips: Clips, batch_size: int) -> Clips | None:
    """Clips through the tokenizer of a task with `encode` and `decode`; None for another task."""
    task = context.task
    if not (hasattr(task, "encode") and hasattr(task, "decode")):
        return None
    through = jax.jit(lambda frozen, clips: task.decode(frozen, task.encode(frozen, clips)))
    parts = []
    for start in range(0, len(clips), batch_size):
        part = clips[start : start + batch_size]
        filled = np.concatenate([part, np.repeat(part[-1:], batch_size - len(part), axis=0)])
        parts.append(np.asarray(through(frozen, filled))[: len(part)])
    return np.concatenate(parts)
