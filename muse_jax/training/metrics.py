"""Metrics: TensorBoard, metrics.jsonl, previews and the progress line of a run."""

import io
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from muse_jax.media import Audio, Medium, as_medium


def format_seconds(seconds: float) -> str:
    """Formats a duration: 75 -> "1:15", 7205 -> "2:00:05"."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class MetricWriter:
    """Writes scalars to TensorBoard and metrics.jsonl, and previews to TensorBoard and previews/.

    Args:
      workdir: of the run.
      active: False on all processes but the first, where every call does nothing.
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
        """Writes one row of scalars, in TensorBoard as `prefix`/name."""
        if self._board is None:
            return
        for name, value in values.items():
            self._board.add_scalar(f"{prefix}/{name}", value, step)
        row = {"step": step, "kind": prefix, **{name: float(value) for name, value in values.items()}}
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()

    def previews(self, step: int, previews: Mapping[str, Any]) -> list[Path]:
        """Writes each preview to a PNG, GIF or WAV file and to TensorBoard.

        Args:
          step: of the run.
          previews: name -> medium, or an array as in `muse_jax.media.as_medium`.

        Returns:
          The files.
        """
        files: list[Path] = []
        for name, value in previews.items() if self._board is not None else ():
            medium = as_medium(value)
            data = medium.encode()
            files.append(self._previews / f"{name.replace('/', '_')}_{step:07d}{medium.suffix}")
            files[-1].write_bytes(data)
            self._show(name, medium, data, step)
        return files

    def _show(self, name: str, medium: Medium, data: bytes, step: int) -> None:
        """Adds an encoded medium to TensorBoard, which plays GIFs as images."""
        from tensorboardX.proto.summary_pb2 import Summary

        if isinstance(medium, Audio):
            audio = Summary.Audio(
                sample_rate=medium.sample_rate,
                num_channels=1,
                length_frames=len(medium.joined()),
                encoded_audio_string=data,
                content_type="audio/wav",
            )
            value = Summary.Value(tag=name, audio=audio)
        else:
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
            encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
            value = Summary.Value(tag=name, image=encoded)
        self._board.file_writer.add_summary(Summary(value=[value]), step)  # type: ignore[union-attr]

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._board is not None:
            self._board.close()
            self._lines.close()


def _open_lines(path: Path) -> TextIO:
    """Opens `path` for appending, without the incomplete last line that a killed run may have left."""
    if path.exists():
        lines, newline, incomplete = path.read_bytes().rpartition(b"\n")
        if incomplete:
            os.truncate(path, len(lines) + len(newline))
    return path.open("a")


class ProgressLine:
    """Progress of a run on stderr: step, loss, examples/s, model FLOPs utilisation and time left.

    On a terminal the line is updated in place; otherwise each update is a new line.

    Args:
      total_steps: the last step of the run.
      start: the step from which the speed is measured.
      out: the stream to print to, by default stderr.
      active: False on all processes but the first, which print nothing.
    """

    def __init__(self, total_steps: int, start: int = 0, out: TextIO | None = None, active: bool = True):
        self._total, self._step = total_steps, start
        self._out = sys.stderr if out is None else out
        self._active, self._tty = active, self._out.isatty()
        self._rate: float | None = None

    def speed(self, step: int, seconds: float) -> float:
        """Steps per second since the last call, which was `seconds` of training ago."""
        rate = (step - self._step) / seconds
        self._rate = rate if self._rate is None else 0.7 * self._rate + 0.3 * rate
        self._step = step
        return rate

    def restart(self, step: int) -> None:
        """Measures the speed from `step` on."""
        self._step = step

    def show(self, step: int, loss: float, examples_per_second: float, utilisation: float | None) -> None:
        """Prints the progress line; call `speed` first."""
        left = (self._total - step) / max(self._rate or 0.0, 1e-9)
        used = f"  mfu {utilisation:.1%}" if utilisation is not None else ""
        self.print(
            f"step {step}/{self._total}  loss {loss:.4f}  {examples_per_second:.1f} examples/s{used}  "
            f"{format_seconds(left)} left",
            transient=step < self._total,
        )

    def print(self, text: str, transient: bool = False) -> None:
        """Prints a line; on a terminal, the next line overwrites a `transient` one."""
        if self._active:
            start, end = ("\r\x1b[K", "" if transient else "\n") if self._tty else ("", "\n")
            print(f"{start}{text}", end=end, file=self._out, flush=True)
