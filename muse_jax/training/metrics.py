"""What a run shows: a progress line, TensorBoard curves, a JSON line for each, and grids of pictures."""

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image


def picture_grid(images: np.ndarray, padding: int = 2) -> np.ndarray:
    """uint8 images (n, height, width, 3) side by side in a nearly square grid with white lines between."""
    images = np.asarray(images)
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.full(
        (rows * (height + padding) + padding, columns * (width + padding) + padding, channels), 255, np.uint8
    )
    for index, image in enumerate(images):
        top = padding + (index // columns) * (height + padding)
        left = padding + (index % columns) * (width + padding)
        grid[top : top + height, left : left + width] = image
    return grid


def format_seconds(seconds: float) -> str:
    """75 -> "1:15", 7205 -> "2:00:05"."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class MetricWriter:
    """Scalars to workdir/tensorboard and workdir/metrics.jsonl, pictures to TensorBoard and workdir/previews.

    Only where `active`; elsewhere (the other processes of a multi-host run) every call does nothing.
    """

    def __init__(self, workdir: Path, active: bool = True):
        self._board = None
        if not active:
            return
        from tensorboardX import SummaryWriter  # of the extra "train"

        self._previews = workdir / "previews"
        self._previews.mkdir(exist_ok=True)
        self._board = SummaryWriter(str(workdir / "tensorboard"))
        self._lines = _open_lines(workdir / "metrics.jsonl")

    def scalars(self, step: int, values: Mapping[str, float], prefix: str = "train") -> None:
        """Writes one row of scalars under `prefix`/name."""
        if self._board is None:
            return
        for name, value in values.items():
            self._board.add_scalar(f"{prefix}/{name}", value, step)
        row = {"step": step, "kind": prefix, **{name: float(value) for name, value in values.items()}}
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> list[Path]:
        """Writes a grid for each name and returns the PNG files."""
        files: list[Path] = []
        for name, images in pictures.items() if self._board is not None else ():
            grid = picture_grid(images)
            files.append(self._previews / f"{name.replace('/', '_')}_{step:07d}.png")
            Image.fromarray(grid).save(files[-1])
            self._board.add_image(name, grid, step, dataformats="HWC")  # type: ignore[union-attr]
        return files

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._board is not None:
            self._board.close()
            self._lines.close()


def _open_lines(path: Path) -> TextIO:
    """`path` to append to, without the half line that a killed run may have left."""
    if path.exists():
        whole = path.read_bytes().rpartition(b"\n")
        if whole[2]:
            os.truncate(path, len(whole[0]) + len(whole[1]))
    return path.open("a")


class Progress:
    """The line that a person watches: step, loss, images/s, model FLOPs utilisation and time left.

    On a terminal the line is rewritten in place; elsewhere each update is a line of its own.
    """

    def __init__(self, total_steps: int, start: int = 0, out: TextIO | None = None, active: bool = True):
        self._total, self._step = total_steps, start
        self._out = sys.stderr if out is None else out
        self._active, self._tty = active, self._out.isatty()
        self._rate: float | None = None

    def speed(self, step: int, seconds: float) -> float:
        """Steps a second since the last call, of which `seconds` of training have passed."""
        rate = (step - self._step) / seconds
        self._rate = rate if self._rate is None else 0.7 * self._rate + 0.3 * rate
        self._step = step
        return rate

    def restart(self, step: int) -> None:
        """The run is at `step` now."""
        self._step = step

    def show(self, step: int, loss: float, images_per_second: float, utilisation: float | None) -> None:
        """Prints the line; call after `speed`."""
        left = (self._total - step) / max(self._rate or 0.0, 1e-9)
        used = f"  mfu {utilisation:.1%}" if utilisation is not None else ""
        self.say(
            f"step {step}/{self._total}  loss {loss:.4f}  {images_per_second:.1f} images/s{used}  "
            f"{format_seconds(left)} left",
            passing=step < self._total,
        )

    def say(self, text: str, passing: bool = False) -> None:
        """Prints a line; a `passing` one is overwritten by the next on a terminal."""
        if self._active:
            start, end = ("\r\x1b[K", "" if passing else "\n") if self._tty else ("", "\n")
            print(f"{start}{text}", end=end, file=self._out, flush=True)


def to_scalars(values: Mapping[str, Any]) -> dict[str, float]:
    """Host copies of a dict of scalars."""
    return {name: float(np.asarray(value)) for name, value in values.items()}
