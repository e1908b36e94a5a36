"""Compares the losses of one config on meshes of several shapes and on several processes.

python -m experiments.check_sharding --config=configs/smoke/base.py [--layouts=1x1,1x8_fsdp,2x4_mixed]

Every layout runs on virtual CPU devices of this machine, with processes joined over gloo. Each trains from
the start, then each resumes from the middle checkpoints of all others. The command fails if a loss differs
from that of the first layout at the same step by more than --tolerance, relatively.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from absl import flags

from experiments import apps
from muse_jax.sharding import distributed
from muse_jax.training import train, validate_config


class Layout(NamedTuple):
    """Number of processes, devices per process, and the mesh over all devices."""

    processes: int
    devices: int
    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    slices: int = 1


LAYOUTS = {
    "1x1": Layout(1, 1),
    "1x8_data": Layout(1, 8, data=8),
    "1x8_fsdp": Layout(1, 8, fsdp=8),
    "1x8_mixed": Layout(1, 8, data=2, fsdp=2, tensor=2),
    "2x4_mixed": Layout(2, 4, data=2, fsdp=2, tensor=2),
    "2x4_tensor": Layout(2, 4, tensor=8),  # both processes hold, and read, every row
    "2x4_slices": Layout(2, 4, data=4, fsdp=2, slices=2),
}
AFTER = 2  # steps that a layout takes from another's checkpoint

NAMES = flags.DEFINE_list(
    "layouts", list(LAYOUTS), "Any of " + ", ".join(LAYOUTS) + "; the first is the reference."
)
STEPS = flags.DEFINE_integer(
    "steps", 20, "Steps of each run; the checkpoint is at half of them.", lower_bound=2
)
TOLERANCE = flags.DEFINE_float("tolerance", 1e-5, "Largest allowed relative difference between losses.")
WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the runs; by default a temporary one.")
RUNS = flags.DEFINE_list(
    "runs", [], "Only for the processes that this program starts: DIR:STEPS, run in order."
)


def main() -> None:
    """Starts the processes of the layouts, or runs as one of them."""
    if not flags.FLAGS.config:
        raise ValueError("Give --config=FILE, for instance configs/smoke/base.py.")
    unknown = sorted(set(NAMES.value) - set(LAYOUTS))
    if unknown:
        raise ValueError(f"There is no layout {unknown[0]!r}: use {', '.join(LAYOUTS)}.")
    if RUNS.value:
        work()
    elif WORKDIR.value:
        compare(Path(WORKDIR.value))
    else:
        with tempfile.TemporaryDirectory() as directory:
            compare(Path(directory))


def work() -> None:
    """Trains in each directory of --runs."""
    distributed.initialize()
    from muse_jax.system import make_task

    for run in RUNS.value:
        directory, _, steps = run.rpartition(":")
        config = validate_config({**flags.FLAGS.config.to_dict(), "total_steps": int(steps)})
        train(config, make_task(config), directory)


def compare(root: Path) -> None:
    """Runs all layouts, then each from the checkpoints of the others, and prints the differences."""
    names, steps = NAMES.value, STEPS.value
    for name in names:
        launch(LAYOUTS[name], [f"{root / name}:{steps}"])
    expected = losses(root / names[0])
    worst = 0.0
    for name in names:
        difference = largest_difference(losses(root / name), expected)
        worst = max(worst, difference)
        print(
            f"{name:<12} {len(expected)} losses differ from those of {names[0]} by at most {difference:.1e}",
            flush=True,
        )
    for name in names:
        others = [other for other in names if other != name]
        resumed = [copy_until(root / other, root / f"{other}_in_{name}", steps // 2) for other in others]
        launch(LAYOUTS[name], [f"{directory}:{steps // 2 + AFTER}" for directory in resumed])
        for other, directory in zip(others, resumed, strict=True):
            found = losses(directory)
            if set(found) != set(range(steps // 2 + 1, steps // 2 + AFTER + 1)):
                raise ValueError(
                    f"{name} did not resume from {other}'s checkpoint: it logged steps {sorted(found)}."
                )
            difference = largest_difference(found, expected)
            worst = max(worst, difference)
            print(f"{name:<12} from {other}'s checkpoint: {difference:.1e}", flush=True)
    if worst > TOLERANCE.value:
        raise ValueError(
            f"Losses differ by {worst:.1e}, which is more than --tolerance={TOLERANCE.value:.1e}."
        )


def launch(layout: Layout, runs: list[str]) -> None:
    """Trains in each directory with the processes and devices of `layout`.

    Raises:
      ValueError: a process failed; the message ends with its output.
    """
    if not runs:
        return
    arguments = [arg for arg in sys.argv[1:] if not arg.startswith(("--layouts", "--workdir", "--runs"))]
    settings = {
        "mesh.data": layout.data,
        "mesh.fsdp": layout.fsdp,
        "mesh.tensor": layout.tensor,
        "mesh.slices": layout.slices,
        "optim.decay": "constant",  # so that the schedule does not depend on the number of steps
        "log_every": 1,
        "eval_every": 0,
        "preview_every": 0,
        "checkpoint_every": STEPS.value // 2,
        "keep_checkpoints": 2,
    }
    command = [sys.executable, "-m", "experiments.check_sharding", *arguments, f"--runs={','.join(runs)}"]
    command += [f"--config.{key}={value}" for key, value in settings.items()]
    given = os.environ.get("XLA_FLAGS", "")
    common = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{given} --xla_force_host_platform_device_count={layout.devices}",
    }
    port, processes = free_port(), []
    with contextlib.ExitStack() as open_files:
        for index in range(layout.processes):
            joined = (
                (f"localhost:{port}", str(layout.processes), str(index))
                if layout.processes > 1
                else ("", "", "")
            )
            environment = {**common, **dict(zip(distributed.EXPLICIT, joined, strict=True))}
            # A file, since a full pipe of one process would block all of them while another is waited for.
            stderr = open_files.enter_context(tempfile.TemporaryFile("w+"))
            processes.append(
                (subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=stderr), stderr)
            )
        for process, stderr in processes:
            if process.wait():
                stderr.seek(0)
                raise ValueError(f"A process of the layout {layout} failed:\n{stderr.read()[-3000:]}")


def free_port() -> int:
    """A port that is currently free."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def copy_until(source: Path, target: Path, step: int) -> Path:
    """Copies the config and the checkpoint of `step` of a run to `target`, which is returned."""
    checkpoint = Path("checkpoints") / str(step)
    shutil.copytree(source / checkpoint, target / checkpoint)
    shutil.copy(source / "train_config.json", target)
    return target


def losses(workdir: Path) -> dict[int, float]:
    """Logged loss of each step of a run."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def largest_difference(found: dict[int, float], expected: dict[int, float]) -> float:
    """The largest relative difference between losses of the same steps."""
    return max(abs(loss - expected[step]) / abs(expected[step]) for step, loss in found.items())


if __name__ == "__main__":
    apps.run(main)
