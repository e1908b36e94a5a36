"""Shared parts of the benchmarks: timed runs in turn, and the name of the machine."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax


def time_in_turn(runs: Mapping[str, Callable[[int], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, after one that warms up; the runs take turns, so that other work slows all alike.

    Args:
      runs: name -> function of the number of the repeat, 0 for the warm-up; its arrays are waited for.
      repeats: timed runs of each.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(repeat))
            if repeat:
                times[name].append(time.perf_counter() - start)
    return times


def machine(backend: str | None = None) -> str:
    """The accelerator, or the processor with its number of threads, and the versions of JAX and Python."""
    versions = f"jax {jax.__version__}, Python {platform.python_version()}"
    if (backend or jax.default_backend()) != "cpu":
        return f"{jax.devices(backend)[0].device_kind}; {versions}"
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if "model name" in line), name)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {threads} threads; {versions}"
