"""Profiling: shares of time in the log, throughput, profiler traces and a watchdog for stuck steps."""

import contextlib
import dataclasses
import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from muse_jax.training.flops import count_flops, peak_flops
from muse_jax.training.metrics import format_seconds

PHASES = ("input_wait", "step", "eval", "checkpoint")  # `eval` includes previews
NOT_TRAINING = ("compile", "eval", "checkpoint")  # excluded from the steps per second


class Clock:
    """Wall-clock time of each phase of the loop, as seen by the host.

    `step` counts dispatching steps and waiting for the devices, `input_wait` waiting for the next batch, and
    `checkpoint` only the time for which a save blocks the loop: writing continues in the background.

    Attributes:
      current: the phase that the loop is in.
    """

    def __init__(self) -> None:
        self.current = "start"
        self._total = dict.fromkeys(("compile", *PHASES), 0.0)
        self._lap = dict(self._total)
        self._start = self._lap_start = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Context whose time counts as phase `name`."""
        start, self.current = time.perf_counter(), name
        try:
            yield
        finally:
            self._lap[name] += time.perf_counter() - start
            self.current = "loop"

    def lap(self) -> tuple[float, dict[str, float]]:
        """Starts a new lap.

        Returns:
          The seconds of training in the finished lap, and the share of each phase in its time without
          compilation.
        """
        now = time.perf_counter()
        elapsed = now - self._lap_start
        training = elapsed - sum(self._lap[name] for name in NOT_TRAINING)
        counted = max(1e-9, elapsed - self._lap["compile"])
        shares = {_share_name(name): self._lap[name] / counted for name in PHASES}
        self._total = {name: seconds + self._lap[name] for name, seconds in self._total.items()}
        self._lap = dict.fromkeys(self._lap, 0.0)
        self._lap_start = now
        return max(1e-9, training), shares

    def summary(self) -> str:
        """One line about the time of the whole run."""
        self.lap()
        elapsed = time.perf_counter() - self._start
        counted = max(1e-9, elapsed - self._total["compile"])
        shares = ", ".join(f"{_share_name(name)} {self._total[name] / counted:.1%}" for name in PHASES)
        return (
            f"{format_seconds(elapsed)} in total, {format_seconds(self._total['compile'])} compiling; "
            f"of the rest: {shares}"
        )


def _share_name(phase: str) -> str:
    return phase if phase == "input_wait" else f"{phase}_share"


@dataclasses.dataclass
class Throughput:
    """Converts steps per second to examples per second and model FLOPs utilisation (MFU).

    Attributes:
      batch_size: examples per step, over all devices.
      device: one of the devices.
      device_count: number of devices.
      flops: FLOPs of one step, over all devices.
      peak: peak FLOP/s of one device, None if unknown.
    """

    batch_size: int
    device: Any
    device_count: int
    flops: float = 0.0
    peak: float | None = None

    def count_flops(self, train_step: Callable[..., Any], *args: Any) -> None:
        """Counts the FLOPs of one step and looks up the device's peak (measured on a CPU)."""
        self.flops, self.peak = count_flops(train_step, *args), peak_flops(self.device)

    def rates(self, steps_per_second: float) -> dict[str, float]:
        """The rates to log; without `mfu` if the device's peak is unknown."""
        rates = {
            "steps_per_second": steps_per_second,
            "examples_per_second": steps_per_second * self.batch_size,
        }
        if self.peak:
            rates["mfu"] = steps_per_second * self.flops / (self.peak * self.device_count)
        return rates


class ProfileWindow:
    """Profiler trace of the steps first to last (inclusive) in workdir/profile, for TensorBoard or Perfetto.

    Process 0 traces its own devices. A run that resumes within the window traces the rest of it.

    Args:
      steps: (first, last), or empty for no trace.
      workdir: of the run.
    """

    def __init__(self, steps: Sequence[int], workdir: Path):
        self._first, self._last = steps if steps and jax.process_index() == 0 else (0, 0)
        self._folder, self._running = workdir / "profile", False

    def before(self, step: int) -> None:
        """Call before each step."""
        if not self._running and self._first <= step <= self._last:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, result: Any) -> None:
        """Call after each step with its result; the trace ends when the last step of the window is done."""
        if self._running and step >= self._last:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends the trace if it is running."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False


class Watchdog:
    """A thread that warns on stderr when a step takes too long; it does not stop the step.

    It warns again each time the duration has doubled.

    Args:
      seconds: duration of a step from which on it warns; 0 disables.
      clock: names the current phase of the loop.
      stacks_file: file to which the stacks of all threads are appended at each warning.
    """

    def __init__(self, seconds: float, clock: Clock, stacks_file: Path):
        self._seconds, self._clock, self._stacks_file = seconds, clock, stacks_file
        self._step, self._start, self._next_warning = 0, time.monotonic(), seconds
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if seconds:
            self._thread.start()

    def beat(self, step: int) -> None:
        """Call when a step begins."""
        self._step, self._start, self._next_warning = step, time.monotonic(), self._seconds

    def _watch(self) -> None:
        while not self._closed.wait(min(10.0, self._seconds / 4)):
            elapsed = time.monotonic() - self._start
            if elapsed < self._next_warning:
                continue
            self._next_warning = 2 * elapsed
            with self._stacks_file.open("a") as file:
                print(f"step {self._step}, {elapsed:.0f} s:", file=file, flush=True)
                faulthandler.dump_traceback(file)
            where = f" in process {jax.process_index()}" if jax.process_count() > 1 else ""
            print(
                f"Step {self._step} has taken {format_seconds(elapsed)} so far{where}, now in phase "
                f"{self._clock.current!r}: the stacks of all threads are in {self._stacks_file}.",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
