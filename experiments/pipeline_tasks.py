"""The tasks of a pipeline by the names of its methods, and their inputs from files."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from muse_jax.media.video import ENCODERS, decode_video

INPUTS = {
    "prompts": "--prompt",
    "classes": "--prompt",
    "images": "--image",
    "videos": "--image",
    "media": "--image",
    "sketches": "--image",
    "mask": "--mask",
}
"""Parameter of a task -> the flag that gives it."""


ENLARGING = "super_resolve"  # reads images of another size than `image_size`


def find_tasks(pipeline: type) -> list[str]:
    """Names of the methods of a pipeline that take sampling parameters and require only `INPUTS`."""
    found = []
    for name, method in inspect.getmembers(pipeline, inspect.isfunction):
        parameters = list(inspect.signature(method).parameters.values())[1:]
        samples = any(p.kind == p.VAR_KEYWORD for p in parameters)
        required = [p.name for p in parameters if p.default is p.empty and p.kind != p.VAR_KEYWORD]
        public = not name.startswith("_") and name != ENLARGING
        if public and samples and required and all(name in INPUTS for name in required):
            found.append(name)
    return found


def choose_task(pipe: Any, name: str, out: Path) -> tuple[str, bool]:
    """The task of a call, and whether it makes videos.

    Args:
      name: of the task; "": `generate`, or `generate_video` if the pipeline has it and `out` is a video.
      out: the file to write.

    Raises:
      ValueError: the pipeline has no such task, or its results are not written as `out`.
    """
    as_video, known = out.suffix.lower() in ENCODERS, find_tasks(type(pipe))
    name = name or ("generate_video" if as_video and "generate_video" in known else "generate")
    if name not in known:
        raise ValueError(f"--task={name}: this {type(pipe).__name__} has the tasks {', '.join(known)}.")
    parameters = inspect.signature(getattr(pipe, name)).parameters
    makes_video = "frames" in parameters or ("media" in parameters and as_video)
    if makes_video and not as_video:
        raise ValueError(f"--task={name} makes videos: give --out a name that ends in .gif or .mp4.")
    if not makes_video and out.suffix.lower() == ".mp4":
        raise ValueError(
            f"--task={name} of this {type(pipe).__name__} makes images: give --out a name that ends in .png."
        )
    return name, makes_video


def task_inputs(
    pipe: Any, task: str, prompts: Sequence[str], files: Sequence[str], mask: str, video: bool
) -> dict[str, Any]:
    """The arguments of a task by name.

    Args:
      task: one of `find_tasks`.
      prompts: texts, or numbers of classes.
      files: images or videos, which become the parameter that the task has for them.
      mask: a file; "": none.
      video: whether the task reads videos; an image is one of a single frame.

    Raises:
      ValueError: an input is missing, is not used by the task, or cannot be read.
    """
    parameters = inspect.signature(getattr(pipe, task)).parameters
    flags = {INPUTS[name]: name for name in parameters if name in INPUTS}
    given: Mapping[str, Any] = {"--prompt": list(prompts), "--image": list(files), "--mask": mask}
    found: dict[str, Any] = {}
    for flag, value in given.items():
        name = flags.get(flag)
        if value and name is None:
            raise ValueError(f"{flag} is given, but --task={task} does not use it: leave it out.")
        if name is not None and not value and parameters[name].default is inspect.Parameter.empty:
            raise ValueError(f"--task={task} needs {flag}: give it, once or several times.")
        if name is not None and value:
            found[name] = value
    for name in found:
        if INPUTS[name] == "--image":
            found[name] = (
                read_videos(files, pipe.image_size) if video else read_images(files, pipe.image_size)
            )
    if mask:
        found["mask"] = read_mask(mask, pipe.image_size)
    return found


def read_images(files: Sequence[str], size: tuple[int, int]) -> UInt8[np.ndarray, "batch height width 3"]:
    """The first frames of image or video files, cropped and resized to (height, width)."""
    return np.stack([clip[0] for clip in _read(files, size)])


def read_videos(
    files: Sequence[str], size: tuple[int, int]
) -> UInt8[np.ndarray, "batch frames height width 3"]:
    """Clips from GIF or image files, cropped and resized to (height, width).

    Raises:
      ValueError: their numbers of frames differ.
    """
    clips = _read(files, size)
    counts = sorted({len(clip) for clip in clips})
    if len(counts) > 1:
        raise ValueError(f"--image: the videos have {counts[0]} to {counts[-1]} frames: give equally many.")
    return np.stack(clips)


def read_mask(file: str, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """A mask from an image file, True where it is bright, resized to (height, width)."""
    image = Image.fromarray(_frames(file)[0]).convert("L")
    return np.asarray(ImageOps.fit(image, size[::-1], Image.Resampling.NEAREST)) > 127


def _read(files: Sequence[str], size: tuple[int, int]) -> list[np.ndarray]:
    def fit(frame: np.ndarray) -> np.ndarray:
        return np.asarray(ImageOps.fit(Image.fromarray(frame), size[::-1], Image.Resampling.LANCZOS))

    return [np.stack([fit(frame) for frame in _frames(file)]) for file in files]


def _frames(file: str) -> np.ndarray:
    try:
        return decode_video(Path(file).read_bytes()).frames
    except (OSError, ValueError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{file} cannot be read as an image or a GIF ({reason}).") from error
