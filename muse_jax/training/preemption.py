"""What a run lives through: being told to stop, another run in its workdir, steps that are not finite."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from muse_jax.sharding.distributed import all_processes


class Stopped(Exception):
    """A signal ended the run after its checkpoint was saved; the same command goes on from there.

    Attributes:
      exit_code: 128 + the signal's number, as shells and schedulers write it: 143 (SIGTERM), 130 (SIGINT).
    """

    def __init__(self, signum: int):
        super().__init__(f"Stopped by {signal.Signals(signum).name}.")
        self.exit_code = 128 + signum


class StopSignals:
    """Turns SIGTERM and the first SIGINT into a question that the loop asks between two steps.

    A second SIGINT interrupts at once. Over several processes JAX's preemption service catches SIGTERM in
    any of them and names a step at which all stop. Signals are only caught in the main thread of Python.
    """

    def __init__(self) -> None:
        self._received = self._agreed = 0
        self._asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            # With several processes SIGTERM belongs to the preemption service.
            caught = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else (signal.SIGINT,)
            self._before = {signum: signal.signal(signum, self._note) for signum in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler or signal.SIG_DFL)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._received = signum
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
            if jax.process_count() > 1:
                os.kill(os.getpid(), signal.SIGTERM)

    def due(self) -> int:
        """The signal to stop for now, 0 to go on. Every process must ask after every step."""
        if jax.process_count() == 1:
            return self._received
        self._asked += 1
        if multihost_utils.reached_preemption_sync_point(self._asked):
            self._agreed = signal.SIGTERM
        return self._agreed


@contextlib.contextmanager
def hold_workdir(workdir: Path) -> Iterator[None]:
    """Keeps `workdir` for this run; the system lets go of it when the process ends, however it ends.

    Process 0 locks workdir/.lock for all. A file system without locks is used without.

    Raises:
      ValueError: one sentence, in every process, if another run holds it or it cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        problem = _lock(workdir, stack) if jax.process_index() == 0 else ""
        if not all_processes(not problem):
            raise ValueError(problem or f"Process 0 cannot hold the workdir {workdir}: see what it says.")
        yield


def _lock(workdir: Path, stack: contextlib.ExitStack) -> str:
    """Locks workdir/.lock until `stack` closes; returns why it cannot, or "" where it could."""
    try:
        lock = stack.enter_context((workdir / ".lock").open("a+"))
    except OSError as error:
        reason = error.strerror or error
        return f"The workdir {workdir} cannot be written to ({reason}): give a --workdir that can."
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            return ""
        lock.seek(0)
        return (
            f"Another run ({lock.read()}) holds the workdir {workdir}: wait for it to end, stop it, or take "
            "another --workdir."
        )
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.flush()
    return ""


@dataclasses.dataclass
class FiniteWatch:
    """Counts steps in a row whose loss or gradient was not finite, and keeps the scalars since the last log.

    Attributes:
      limit: so many in a row end the patience with these weights; 0 never does.
      in_a_row: how many the newest steps are.
    """

    limit: int
    in_a_row: int = 0
    _rows: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)

    def see(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes in the scalars of steps in their order."""
        for row in rows:
            finite = np.isfinite(row["loss"]) and np.isfinite(row["grad_norm"])
            self.in_a_row = 0 if finite else self.in_a_row + 1
            self._rows.append(row)

    @property
    def spoilt(self) -> bool:
        """Whether the run is to go back to its last good checkpoint."""
        return 0 < self.limit <= self.in_a_row

    def means(self) -> dict[str, float]:
        """The mean of each scalar over the steps seen since the last call that were finite; all if none was.

        `skipped`, a count, is the newest.
        """
        good = [row for row in self._rows if np.isfinite(row["loss"]) and np.isfinite(row["grad_norm"])]
        means = {name: float(np.mean([row[name] for row in good or self._rows])) for name in self._rows[0]}
        means["skipped"] = float(self._rows[-1]["skipped"])
        self._rows = []
        return means

    def forget(self) -> None:
        """Starts anew with other weights."""
        self.in_a_row, self._rows = 0, []
