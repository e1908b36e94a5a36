"""NUWA's eight tasks on a record of the motion data, and their clips as strips of frames."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

SHOWN = 4  # frames of a video
HIDDEN = 128  # gray of the pixels that are redrawn


class Task(NamedTuple):
    """A row of the sheet: its name, the clip that was given, if any, and the one that was generated."""

    name: str
    given: UInt8[np.ndarray, "frames height width 3"] | None
    made: UInt8[np.ndarray, "frames height width 3"]


def run_tasks(pipe: Any, record: Mapping[str, Any], other: str, seed: int) -> list[Task]:
    """The eight tasks on a record of the motion data; `other` is the text of the two manipulations."""
    prompt, clip, sketch = record["captions"][0], record["video"], record["sketch"]
    lower = np.zeros(clip.shape[1:3], bool)
    lower[len(lower) // 2 :] = True
    hidden = np.where(lower[..., None], HIDDEN, clip).astype(np.uint8)
    images, clips, options = clip[None, 0], clip[None], {"seed": seed}
    return [
        Task(f"text to image: {prompt}", None, pipe.generate_image([prompt], **options)),
        Task(f"text to video: {prompt}", None, pipe.generate_video([prompt], **options)[0]),
        Task("video prediction", clip[:1], pipe.predict(clips[:, :1], **options)[0]),
        Task("image completion", hidden[:1], pipe.complete(images, lower, **options)),
        Task(f"image manipulation: {other}", hidden[:1], pipe.manipulate(images, lower, [other], **options)),
        Task(f"video manipulation: {other}", hidden, pipe.manipulate(clips, lower, [other], **options)[0]),
        Task(
            f"sketch to image: {prompt}",
            sketch[:1],
            pipe.sketch_to_image(sketch[None, 0], [prompt], **options),
        ),
        Task(
            f"sketch to video: {prompt}", sketch, pipe.sketch_to_video(sketch[None], [prompt], **options)[0]
        ),
    ]


def strip(task: Task) -> UInt8[np.ndarray, "height width 3"]:
    """Frames of what was given, a gap, and frames of what was generated, side by side."""
    height, width = task.made.shape[1:3]
    blank = np.full((height, width, 3), 255, np.uint8)

    def frames(clip: np.ndarray | None) -> list[np.ndarray]:
        count = 0 if clip is None else min(len(clip), SHOWN)
        chosen = [] if clip is None else list(clip[np.linspace(0, len(clip) - 1, count).round().astype(int)])
        return [*chosen, *[blank] * (SHOWN - count)]

    return np.concatenate([*frames(task.given), blank[:, : width // 2], *frames(task.made)], axis=1)
