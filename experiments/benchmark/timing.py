"""Shared parts of the benchmarks: interleaved timing, and the name of the machine."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax


def time_in_turn(runs: Mapping[str, Callable[[int], Any]], repeats: int) -> dict[str, list[float]]:
    """Times functions in turn, so that other work on the machine affects all of them alike.

    Args:
      runs: name -> function of the number of the repeat, 0 for an untimed first call; its result is waited
        for.
      repeats: timed calls of each.

    Returns:
      Seconds of each call, by name.
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
    """Names the accelerator or processor, its number of threads, and the versions of JAX and Python."""
    versions = f"jax {jax.__version__}, Python {platform.python_version()}"
    if (backend or jax.default_backend()) != "cpu":
        return f"{jax.devices(backend)[0].device_kind}; {versions}"
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if "model name" in line), name)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {threads} threads; {versions}"
