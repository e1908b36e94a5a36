"""Preemption: stop signals, and a lock that keeps a second run out of the workdir."""

import contextlib
import errno
import fcntl
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from muse_jax.sharding.distributed import all_processes


class Stopped(Exception):
    """Raised when a signal ended the run after a checkpoint was saved; the same command resumes it.

    Attributes:
      exit_code: 128 + the signal's number, as in shells and schedulers: 143 for SIGTERM, 130 for SIGINT.
    """

    def __init__(self, signum: int):
        super().__init__(f"Stopped by {signal.Signals(signum).name}.")
        self.exit_code = 128 + signum


class StopSignals:
    """Context that defers SIGTERM and the first SIGINT until the loop asks for them between two steps.

    A second SIGINT interrupts immediately. With several processes, JAX's preemption service catches SIGTERM
    in any of them and chooses a step at which all stop. Signals are only caught in Python's main thread.
    """

    def __init__(self) -> None:
        self._received = self._agreed = 0
        self._calls = 0
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            # With several processes SIGTERM belongs to the preemption service.
            caught = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else (signal.SIGINT,)
            self._previous_handlers = {signum: signal.signal(signum, self._receive) for signum in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous_handlers.items():
            signal.signal(signum, handler or signal.SIG_DFL)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self._received = signum
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, self._previous_handlers[signal.SIGINT])
            if jax.process_count() > 1:
                os.kill(os.getpid(), signal.SIGTERM)

    def due(self) -> int:
        """The signal to stop for, or 0. A collective call: every process makes it after every step."""
        if jax.process_count() == 1:
            return self._received
        self._calls += 1
        if multihost_utils.reached_preemption_sync_point(self._calls):
            self._agreed = signal.SIGTERM
        return self._agreed


@contextlib.contextmanager
def hold_workdir(workdir: Path) -> Iterator[None]:
    """Locks `workdir` for this run; the operating system releases it however the process ends.

    Process 0 locks workdir/.lock on behalf of all. On a file system without locks nothing is locked.

    Raises:
      ValueError: another run holds the workdir or it cannot be written to; raised on every process.
    """
    with contextlib.ExitStack() as stack:
        problem = _lock(workdir, stack) if jax.process_index() == 0 else ""
        if not all_processes(not problem):
            raise ValueError(
                problem or f"Process 0 cannot hold the workdir {workdir}: see its error message."
            )
        yield


def _lock(workdir: Path, stack: contextlib.ExitStack) -> str:
    """Locks workdir/.lock until `stack` closes; returns the reason why it cannot, or ""."""
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
