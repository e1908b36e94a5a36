"""Where a run's time goes: shares in the log, a profiler's window, a word when a step is stuck."""

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

PARTS = ("input_wait", "step", "eval", "checkpoint")  # `eval` has the previews too
APART = ("compile", "eval", "checkpoint")  # left out of the steps a second


class Clock:
    """Adds up the seconds of each part of the loop, as the host sees them.

    `step` holds the dispatch and the waits for the device, `input_wait` what the loop stood still for its
    next batch, `checkpoint` what a save held it up (writing goes on behind it).
    """

    def __init__(self) -> None:
        self.doing = "start"
        self._whole = dict.fromkeys(("compile", *PARTS), 0.0)
        self._lap = dict(self._whole)
        self._begun = self._lap_begun = time.perf_counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the body as `name`."""
        began, self.doing = time.perf_counter(), name
        try:
            yield
        finally:
            self._lap[name] += time.perf_counter() - began
            self.doing = "loop"

    def lap(self) -> tuple[float, dict[str, float]]:
        """Seconds of training and the shares of all time since the last lap."""
        now = time.perf_counter()
        lasted = now - self._lap_begun
        trained = lasted - sum(self._lap[name] for name in APART)
        counted = max(1e-9, lasted - self._lap["compile"])
        shares = {_share_name(name): self._lap[name] / counted for name in PARTS}
        self._whole = {name: seconds + self._lap[name] for name, seconds in self._whole.items()}
        self._lap = dict.fromkeys(self._lap, 0.0)
        self._lap_begun = now
        return max(1e-9, trained), shares

    def summary(self) -> str:
        """One line about the whole run."""
        self.lap()
        lasted = time.perf_counter() - self._begun
        counted = max(1e-9, lasted - self._whole["compile"])
        shares = ", ".join(f"{_share_name(name)} {self._whole[name] / counted:.1%}" for name in PARTS)
        return (
            f"{format_seconds(lasted)} in all, {format_seconds(self._whole['compile'])} to compile; "
            f"of the rest: {shares}"
        )


def _share_name(part: str) -> str:
    return part if part == "input_wait" else f"{part}_share"


@dataclasses.dataclass
class Meter:
    """Turns steps a second into images a second and model FLOPs utilisation."""

    batch_size: int
    device: Any
    devices: int
    flops: float = 0.0
    peak: float | None = None

    def count(self, train_step: Callable[..., Any], *args: Any) -> None:
        """Counts the FLOPs of one step and looks up (on a CPU: measures) the device's peak."""
        self.flops, self.peak = count_flops(train_step, *args), peak_flops(self.device)

    def rates(self, steps_per_second: float) -> dict[str, float]:
        """The rates to log; `mfu` is left out where the device's peak is not known."""
        rates = {
            "steps_per_second": steps_per_second,
            "images_per_second": steps_per_second * self.batch_size,
        }
        if self.peak:
            rates["mfu"] = steps_per_second * self.flops / (self.peak * self.devices)
        return rates


class ProfileWindow:
    """Traces the steps first..last (both included) into workdir/profile, for TensorBoard or Perfetto.

    Process 0 traces its own devices; a run that goes on beyond `first` traces what is left of the window.
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
        """Call after each step with what it gave; the trace ends when the window's last step is done."""
        if self._running and step >= self._last:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends a trace that is running."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False


class Watchdog:
    """A thread that says, in one line, that a step has taken longer than `seconds`, and where it stands.

    It says so again whenever the time has doubled, and adds the stacks of all threads to `stacks`; it ends
    nothing. 0 seconds: it does not watch.
    """

    def __init__(self, seconds: float, clock: Clock, stacks: Path):
        self._seconds, self._clock, self._stacks = seconds, clock, stacks
        self._step, self._since, self._next = 0, time.monotonic(), seconds
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if seconds:
            self._thread.start()

    def beat(self, step: int) -> None:
        """Call when a step begins."""
        self._step, self._since, self._next = step, time.monotonic(), self._seconds

    def _watch(self) -> None:
        while not self._closed.wait(min(10.0, self._seconds / 4)):
            lasted = time.monotonic() - self._since
            if lasted < self._next:
                continue
            self._next = 2 * lasted
            with self._stacks.open("a") as file:
                print(f"step {self._step}, {lasted:.0f} s:", file=file, flush=True)
                faulthandler.dump_traceback(file)
            where = f" in process {jax.process_index()}" if jax.process_count() > 1 else ""
            print(
                f"Step {self._step} has taken {format_seconds(lasted)} so far{where}, now in "
                f"{self._clock.doing!r}: the stacks of its threads are in {self._stacks}.",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
