"""Commands of experiments/ in processes forked from one that has imported everything.

Importing takes longer than most of what a small launch does. Each command still has its own process, devices,
flags, output and exit status, and can be killed.
"""

import multiprocessing
import os
import runpy
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from muse_jax.sharding.distributed import EXPLICIT

# Small programs are compiled more than they run: the compiler need not try hard.
XLA_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if jax.__version_info__ < (0, 11):  # later versions lack the option
    XLA_FLAGS += " --xla_cpu_use_fusion_emitters=false"
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.launch.preload"])
PATIENCE = 3600.0  # seconds that a command may take on a busy machine


class Layout(NamedTuple):
    """A mesh (data, fsdp, tensor), over one process or several."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    processes: int = 1

    def __str__(self) -> str:
        mesh = f"{self.data}x{self.fsdp}x{self.tensor}"
        return mesh if self.processes == 1 else f"{mesh} on {self.processes} processes"

    @property
    def devices(self) -> int:
        """Devices of each process."""
        return self.data * self.fsdp * self.tensor // self.processes


ONE_DEVICE = Layout()


class Command:
    """A command that runs in `folder`: its process, or one for each process of the layout."""

    def __init__(self, folder: Path, cache: Path, program: str, *arguments: str, layout: Layout = ONE_DEVICE):
        self.logs = [folder / f"{program}_{index}.log" for index in range(layout.processes)]
        self.name = " ".join((program, *arguments))
        address = f"localhost:{_free_port()}"
        given = os.environ.get("XLA_FLAGS", "")
        self.processes = []
        for index, log in enumerate(self.logs):
            joined = (address, str(layout.processes), str(index)) if layout.processes > 1 else ("", "", "")
            environment = {
                **dict(zip(EXPLICIT, joined, strict=True)),
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"{given} {XLA_FLAGS} --xla_force_host_platform_device_count={layout.devices}",
            }
            log.write_text("")
            process = CONTEXT.Process(
                target=_run, args=(folder, cache, environment, log, program, arguments), daemon=True
            )
            process.start()
            self.processes.append(process)

    def output(self) -> str:
        """What the first process has written so far."""
        return self.logs[0].read_text(errors="replace")

    def wait_for(self, happened: Callable[[], Any]) -> None:
        """Waits until something has happened; the command must not end before."""
        end = time.monotonic() + PATIENCE
        while not happened():
            assert all(process.is_alive() for process in self.processes), self._report("ended too early")
            assert time.monotonic() < end, self._report("takes too long")
            time.sleep(0.05)

    def end(self) -> int:
        """Waits for the end; the exit status, which all processes must agree on."""
        for process in self.processes:
            process.join(PATIENCE)
        codes = {process.exitcode for process in self.processes}
        if None in codes:
            self.kill()
        assert len(codes) == 1 and None not in codes, self._report(f"ended with {codes}")
        return codes.pop()

    def succeed(self) -> None:
        """Waits for an end without an error."""
        code = self.end()
        assert code == 0, self._report(f"ended with {code}")

    def kill(self) -> None:
        """SIGKILL to all processes."""
        for process in self.processes:
            process.kill()
            process.join()

    def terminate(self) -> None:
        """SIGTERM to the first process."""
        self.processes[0].terminate()

    def _report(self, what: str) -> str:
        written = "\n".join(log.read_text(errors="replace")[-3000:] for log in self.logs)
        return f"{self.name} {what}:\n{written}"


def call(folder: Path, function: Callable[..., None], *arguments: Any) -> None:
    """Calls a function in a process of its own that runs in `folder`, and waits for it."""
    process = CONTEXT.Process(target=_call, args=(folder, function, arguments))
    process.start()
    process.join()
    assert process.exitcode == 0, f"{function.__name__} ended with {process.exitcode}"


def _run(
    folder: Path,
    cache: Path,
    environment: dict[str, str],
    log: Path,
    program: str,
    arguments: tuple[str, ...],
) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ.update(environment)
    os.chdir(folder)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # Only the first process fills the cache. With it, that process would wait for the others to compile, at a
    # collective that times out after 30 s.
    jax.config.update("jax_enable_compilation_cache", not environment["JAX_NUM_PROCESSES"])
    sys.argv = [program, *arguments]
    runpy.run_module(f"experiments.{program}", run_name="__main__", alter_sys=True)


def _call(folder: Path, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.chdir(folder)
    jax.config.update("jax_platforms", "cpu")
    function(*arguments)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
