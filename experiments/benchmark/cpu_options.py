"""Effect of XLA's options for convolutions on a CPU on the step of a training task.

python -m experiments.benchmark.cpu_options --config=configs/emoji/vqgan64.py [--steps=20] [--block=2]

Two processes take turns, one with the options of `experiments.apps` and one with XLA's defaults, so that
other work on the machine affects both alike. The figures are medians over blocks of steps, in seconds per
step: of wall-clock time, and of processor time, which depends less on other work.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
from absl import flags

from experiments import apps
from experiments.benchmark.loop import BLOCK, STEPS, BareStep
from muse_jax.training import validate_config

ANSWER = flags.DEFINE_bool("answer", False, "Only for the processes that this command starts.")


def main() -> None:
    """Measures and prints the result as JSON."""
    if not flags.FLAGS.config:
        raise ValueError("Give --config=FILE, for instance configs/emoji/vqgan64.py.")
    if ANSWER.value:
        answer()
        return
    processes = {name: start(options) for name, options in (("default", ""), ("options", apps.CPU_OPTIONS))}
    blocks: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
    for block in range(1 + max(1, STEPS.value // BLOCK.value)):
        for name, process in processes.items():
            measured = ask(process)
            if block:  # the first block warms up
                blocks[name].append(measured)
    for process in processes.values():
        process.communicate()
    config = flags.FLAGS.config
    result: dict[str, Any] = {"task": config.task, "batch_size": config.data.batch_size}
    for index, clock in enumerate(("seconds", "processor_seconds")):
        medians = {name: statistics.median(each[index] for each in rows) for name, rows in blocks.items()}
        result[clock] = {**medians, "ratio": medians["default"] / medians["options"]}
    print(json.dumps({**result, "steps": STEPS.value, "jax": jax.__version__}, indent=1))


def start(options: str) -> subprocess.Popen[str]:
    """Starts this command as a process that runs blocks of steps with `options` as XLA_FLAGS."""
    command = [sys.executable, "-m", "experiments.benchmark.cpu_options", *sys.argv[1:], "--answer"]
    environment = {**os.environ, "XLA_FLAGS": options, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ask(process: subprocess.Popen[str]) -> tuple[float, float]:
    """Wall-clock and processor seconds per step of one block."""
    assert process.stdin is not None and process.stdout is not None
    print(file=process.stdin, flush=True)
    line = process.stdout.readline()
    if not line:
        raise ValueError("One of the two processes failed: its output is above.")
    clock, processor = json.loads(line)
    return clock, processor


def answer() -> None:
    """Runs a block of steps for each line of standard input."""
    step = BareStep(validate_config(flags.FLAGS.config))
    for _ in sys.stdin:
        began = time.process_time()
        clock = step.block()
        print(json.dumps([clock, (time.process_time() - began) / BLOCK.value]), flush=True)


if __name__ == "__main__":
    apps.run(main)
