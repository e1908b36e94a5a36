"""Videos: clips of uint8 frames (frames, height, width, 3) on the host, read and written as files."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageSequence

from muse_jax.media import image as images
from muse_jax.media.image import View, check_size, needs_window, parse_augment, tile_images, to_rgb
from muse_jax.media.window import Window, check_length

SUFFIXES = (".gif", ".apng")
AUGMENTATIONS = (*images.AUGMENTATIONS, "window")
DEFAULT_FPS = 8.0
_DEFAULT_DURATION = 100  # milliseconds, for GIF frames that state none


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Video:
    """One clip, or several to look at.

    Attributes:
      frames: uint8 ([n,] frames, height, width, 3).
      fps: frames per second.
    """

    frames: Any
    fps: float = dataclasses.field(default=DEFAULT_FPS, metadata={"static": True})
    suffix = ".gif"

    def encode(self, suffix: str = ".gif") -> bytes:
        """The clips side by side as a file.

        Args:
          suffix: ".gif", or ".mp4", which needs the extra "mp4".

        Raises:
          ValueError: another suffix, or the extra is not installed.
        """
        check_encoder(suffix)
        frames = np.asarray(self.frames)
        if frames.ndim == 5:
            frames = np.stack([tile_images(frame) for frame in frames.swapaxes(0, 1)])
        return ENCODERS[suffix](frames, self.fps)


def decode_video(data: bytes) -> Video:
    """Decodes a GIF, APNG or animated WebP to frames of equal duration; transparency becomes white.

    Frames of longer duration are repeated: durations of 100 and 300 ms give 4 frames at 10 fps.

    Raises:
      OSError, ValueError, SyntaxError: the bytes are not a complete video.
    """
    frames, durations = [], []
    with Image.open(io.BytesIO(data)) as file:
        for frame in ImageSequence.Iterator(file):
            frames.append(to_rgb(frame))
            durations.append(round(frame.info.get("duration", 0)) or _DEFAULT_DURATION)
    unit = math.gcd(*durations)
    repeats = [duration // unit for duration in durations]
    return Video(np.repeat(np.stack(frames), repeats, axis=0), 1000 / unit)


def split_strip(
    strip: UInt8[np.ndarray, "height width 3"],
) -> UInt8[np.ndarray, "frames width width 3"]:
    """Splits an image of square frames, one below the other.

    Raises:
      ValueError: the height is not a multiple of the width.
    """
    height, width = strip.shape[:2]
    if height % width:
        raise ValueError(
            f"a strip of {height} x {width} pixels: its height must be a multiple of its width, because its "
            "frames are squares."
        )
    return strip.reshape(-1, width, width, 3)


def encode_gif(frames: UInt8[np.ndarray, "frames height width 3"], fps: float = DEFAULT_FPS) -> bytes:
    """Encodes a clip as a looping GIF with at most 256 colours per frame.

    Durations in GIF files are multiples of 10 ms: 8 fps becomes 120 ms per frame. Equal consecutive frames
    are stored as one of longer duration.
    """
    first, *rest = (
        Image.fromarray(frame).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        for frame in frames
    )
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=1000 / fps, loop=0)
    return buffer.getvalue()


def encode_mp4(frames: UInt8[np.ndarray, "frames height width 3"], fps: float = DEFAULT_FPS) -> bytes:
    """Encodes a clip as H.264 in MP4; odd sizes grow by one pixel. It needs the extra "mp4"."""
    from imageio import v3 as imageio

    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
    return imageio.imwrite(
        "<bytes>", frames, extension=".mp4", plugin="FFMPEG", fps=fps, codec="libx264", macro_block_size=2
    )


ENCODERS = {".gif": encode_gif, ".mp4": encode_mp4}


def check_encoder(suffix: str) -> None:
    """Checks that videos can be written as files that end in `suffix`.

    Raises:
      ValueError: `suffix` is not one of `ENCODERS`, or is ".mp4" and the extra "mp4" is not installed.
    """
    if suffix not in ENCODERS:
        raise ValueError(f"Videos are written as {' or '.join(ENCODERS)}, not as {suffix!r}.")
    if suffix == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401  the plugin, which imageio imports only when it writes
            from imageio import v3  # noqa: F401
        except ModuleNotFoundError as error:
            raise ValueError(
                f"MP4 files need the package {error.name}: install the extra 'mp4' with "
                "`pip install -e '.[mp4]'`, or write a GIF."
            ) from None


def resample_frames(frames: np.ndarray, fps: float, target_fps: float) -> np.ndarray:
    """The frames at `target_fps`: at each time, the frame of a clip at `fps` that is shown then."""
    count = max(1, round(len(frames) * target_fps / fps))
    return frames[np.minimum((np.arange(count) * fps / target_fps).astype(int), len(frames) - 1)]


@dataclasses.dataclass(frozen=True)
class VideoModality:
    """Videos of records as uint8 (length, size, size, 3).

    One view is drawn for a clip and applied to all of its frames.

    Args:
      size: side in pixels, at least 1.
      length: number of frames. Of longer clips the beginning is taken, or a random window; the last frame of
        shorter ones is repeated.
      fps: frames per second; clips at another rate are resampled.
      augment: "none", "crop", "zoom", "flip", "window" or a sum such as "crop+window", see `View.draw`.
      field: of the records that holds the frames.

    Raises:
      ValueError: an argument that is not allowed.
    """

    size: int
    length: int
    fps: float = DEFAULT_FPS
    augment: str = "none"
    field: str = "video"

    def __post_init__(self) -> None:
        check_size(self.size)
        check_length(self.length, "frames")
        parse_augment(self.augment, AUGMENTATIONS)

    def fit(self, record: Mapping[str, Any]) -> np.ndarray:
        """The clip of a record at `fps`, resized unless random windows of its frames are needed."""
        frames = resample_frames(record[self.field], record["fps"], self.fps)
        return frames if needs_window(self.augment) else _map_frames(frames, self.size)

    def draw(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The augmented clip at its final length and size."""
        steps = parse_augment(self.augment, AUGMENTATIONS)
        frames = Window.draw(len(frames), self.length, "window" in steps, rng).apply(frames, "edge")
        view = View.draw(frames.shape[1:3], self.size, steps, rng)
        return np.stack([view.apply(frame, self.size) for frame in frames])


def _map_frames(frames: Sequence[np.ndarray] | np.ndarray, size: int) -> np.ndarray:
    return np.stack([images.resize(frame, size) for frame in frames])
