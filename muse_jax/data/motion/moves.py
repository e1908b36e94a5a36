"""Motions of drawings, known exactly: positions, sizes, angles and opacities of every frame."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

SIZE = 64
FRAMES = 8

# The step of each direction, (columns, rows) with rows counted downwards.
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up left": (-1, -1),
    "up right": (1, -1),
    "down left": (-1, 1),
    "down right": (1, 1),
}
OTHER_MOTIONS: tuple[str, ...] = (
    "bounce",
    "spin clockwise",
    "spin counterclockwise",
    "grow",
    "shrink",
    "fade",
    "still",
)
MOTIONS: tuple[str, ...] = (*DIRECTIONS, *OTHER_MOTIONS)

SINGLE_SIDES = (24, 36)
PAIR_SIDES = (18, 24)
STILL_SIDES = (24, 60)
_SPEEDS = (2, 3, 4)  # pixels a frame
_SMALL, _LARGE = 14, 48
_BOUNCE = 22


@dataclasses.dataclass(frozen=True)
class Pose:
    """A drawing in one frame.

    Attributes:
      x, y: its centre in pixels.
      side: its side in pixels.
      angle: of rotation, degrees clockwise.
      opacity: 0 to 1.
    """

    x: float
    y: float
    side: int
    angle: float = 0.0
    opacity: float = 1.0


def draw_poses(
    motion: str, sides: tuple[int, int], box: tuple[int, int, int, int], rng: np.random.Generator
) -> list[Pose]:
    """Draws a path for a motion: a pose for each of `FRAMES` frames, all inside `box`.

    Args:
      motion: one of `MOTIONS`.
      sides: the smallest and the largest side of the drawing.
      box: left, top, right and bottom in pixels.
    """
    side = int(rng.integers(sides[0], sides[1] + 1))
    if motion in DIRECTIONS:
        return _travel(DIRECTIONS[motion], side, box, rng)
    if motion == "bounce":
        x, low = _anywhere(side, (box[0], box[1] + _BOUNCE, box[2], box[3]), rng)
        heights = [_BOUNCE * math.sin(math.pi * frame / FRAMES) for frame in range(FRAMES)]
        return [Pose(x, low - height, side) for height in heights]
    if motion in ("grow", "shrink"):
        x, y = _anywhere(_LARGE, box, rng)
        lengths = np.linspace(_SMALL, _LARGE, FRAMES).round().astype(int).tolist()
        return [Pose(x, y, length) for length in (lengths if motion == "grow" else lengths[::-1])]
    if motion == "still":
        side = int(rng.integers(STILL_SIDES[0], STILL_SIDES[1] + 1))
    x, y = _anywhere(side, box, rng)
    if motion == "fade":
        return [Pose(x, y, side, opacity=1 - 0.9 * frame / (FRAMES - 1)) for frame in range(FRAMES)]
    turn = {"spin clockwise": 360 / FRAMES, "spin counterclockwise": -360 / FRAMES}.get(motion, 0.0)
    return [Pose(x, y, side, angle=turn * frame) for frame in range(FRAMES)]


def _anywhere(side: int, box: tuple[int, int, int, int], rng: np.random.Generator) -> tuple[float, float]:
    """A centre at which a drawing lies within the box, on whole pixels."""
    left, top, right, bottom = box
    corner = rng.integers(left, right - side + 1), rng.integers(top, bottom - side + 1)
    return float(corner[0]) + side / 2, float(corner[1]) + side / 2


def _travel(
    step: tuple[int, int], side: int, box: tuple[int, int, int, int], rng: np.random.Generator
) -> list[Pose]:
    left, top, right, bottom = box
    room = min(right - left if step[0] else 10**6, bottom - top if step[1] else 10**6) - side
    speed = int(rng.choice([speed for speed in _SPEEDS if speed * (FRAMES - 1) <= room] or _SPEEDS[:1]))
    way = speed * (FRAMES - 1)
    # The box of the first frame's positions, shortened at the side that the drawing moves to.
    start = (
        left + way * (step[0] < 0),
        top + way * (step[1] < 0),
        right - way * (step[0] > 0),
        bottom - way * (step[1] > 0),
    )
    x, y = _anywhere(side, start, rng)
    return [Pose(x + speed * frame * step[0], y + speed * frame * step[1], side) for frame in range(FRAMES)]


def draw_frame(
    sprites: list[Image.Image], poses: list[Pose], background: tuple[int, int, int] = (255, 255, 255)
) -> UInt8[np.ndarray, "64 64 3"]:
    """Draws RGBA sprites in their poses, the later over the earlier ones."""
    canvas = Image.new("RGBA", (SIZE, SIZE), (*background, 255))
    for sprite, pose in zip(sprites, poses, strict=True):
        turned = sprite.rotate(-pose.angle, Image.Resampling.BICUBIC) if pose.angle % 360 else sprite
        small = turned.resize((pose.side, pose.side), Image.Resampling.BOX if pose.side < SIZE else None)
        if pose.opacity < 1:
            small.putalpha(small.getchannel("A").point([round(a * pose.opacity) for a in range(256)]))
        corner = round(pose.x - pose.side / 2), round(pose.y - pose.side / 2)
        layer = Image.new("RGBA", canvas.size)
        layer.paste(small, corner)
        canvas = Image.alpha_composite(canvas, layer)
    return np.asarray(canvas.convert("RGB"))
