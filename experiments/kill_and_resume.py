"""Kills runs at random moments, also during checkpoint writes, and compares the results bit for bit.

python -m experiments.kill_and_resume --runs=20

A small VQGAN is trained on images of random colours, first without interruption. Each further run is killed
with SIGKILL and resumed by the same command; its last checkpoint (weights, averages, moments, position in the
data) must equal that of the uninterrupted run.
"""

import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags
from PIL import Image

from experiments import apps
from muse_jax.system import make_task
from muse_jax.training import train, validate_config

RUNS = flags.DEFINE_integer("runs", 20, "Number of runs to kill.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Random seed of the moments.")
KEEP = flags.DEFINE_string("folder", "", "Folder of the runs; by default a temporary one.")
SMOKE = Path(__file__).parents[1] / "configs" / "smoke" / "vqgan.py"
STEPS, CHECKPOINT_EVERY = 40, 4


def main() -> None:
    """Runs the comparison; exits with status 1 if a run differs."""
    for package in (
        "grain",
        "tensorboardX",
    ):  # reports a missing package here rather than in the logs of the runs
        importlib.import_module(package)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(KEEP.value or temporary).absolute()
        make_images(folder / "images")
        config = make_config(folder / "images")
        jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        finish(start(config, folder / "cold"))  # compiles
        began = time.perf_counter()
        finish(start(config, folder / "whole"))
        lasted = time.perf_counter() - began
        moments = random.Random(SEED.value)
        for run in range(RUNS.value):
            workdir = folder / f"run_{run}"
            # Every second run is killed soon after it starts to write a checkpoint.
            kill(config, workdir, moments, lasted, in_checkpoint=run % 2 == 1)
            names = [path.name for path in workdir.glob("checkpoints/*")]
            whole = max((int(name) for name in names if name.isdigit()), default=None)
            half = [name.split(".")[0] for name in names if not name.isdigit()]
            print(f"run {run}: killed with checkpoint {whole}, incomplete {half or None}", flush=True)
            finish(start(config, workdir))
        # Not earlier: this process must have no JAX threads when it forks.
        same = [same_files(folder / f"run_{run}", folder / "whole") for run in range(RUNS.value)]
        print(f"{sum(same)} of {len(same)} runs equal the uninterrupted one bit for bit.")
        if not all(same):
            raise SystemExit(1)


def make_images(folder: Path) -> None:
    """Sixteen images of one colour each."""
    folder.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(0).integers(0, 256, (16, 3), dtype=np.uint8)
    for index, colour in enumerate(colours):
        Image.fromarray(np.tile(colour, (16, 16, 1))).save(folder / f"{index}.png")
    lines = [json.dumps({"file": f"{i}.png", "caption": "a colour", "split": "train"}) for i in range(16)]
    (folder / "captions.jsonl").write_text("\n".join(lines))


def make_config(images: Path) -> Any:
    """Config of the smoke test with many checkpoints, random flips and a reader thread."""
    config = apps.load_config_file(str(SMOKE))
    config.data.update(source=f"folder:{images}", augment="flip", workers=1)
    config.update(total_steps=STEPS, checkpoint_every=CHECKPOINT_EVERY, log_every=10)
    return validate_config(config)


def start(config: Any, workdir: Path) -> int:
    """Forks a process that trains, with its output in workdir.log; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        log = os.open(workdir.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, sys.stderr.fileno())
        train(config, make_task(config), workdir)
        status = 0
    except Exception as error:
        print(repr(error), file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def finish(child: int) -> None:
    """Waits for a run and checks that it succeeded."""
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise ValueError("A run failed: give --folder=DIR to keep its .log file.")


def kill(config: Any, workdir: Path, moments: random.Random, lasted: float, in_checkpoint: bool) -> None:
    """Starts a run and kills it at a random moment; starts over if it had already ended."""
    child = start(config, workdir)
    if in_checkpoint:
        wanted = CHECKPOINT_EVERY * moments.randrange(1, STEPS // CHECKPOINT_EVERY)
        while not list(workdir.glob(f"checkpoints/{wanted}*")) and runs_still(child):
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.03))
    else:
        time.sleep(moments.uniform(0.2, 0.95) * lasted)
    os.kill(child, signal.SIGKILL)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
        shutil.rmtree(workdir)
        kill(config, workdir, moments, lasted, in_checkpoint)


def runs_still(child: int) -> bool:
    """Whether a process is still running; its status can still be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def read_numpy(path: Path) -> Any:
    """Reads one item of a checkpoint as numpy arrays."""
    handler = ocp.PyTreeCheckpointHandler()
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree)
    return handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def same_files(left: Path, right: Path) -> bool:
    """Whether the last checkpoints of two runs are bit-identical."""

    def read(workdir: Path) -> Any:
        path = workdir / "checkpoints" / str(STEPS)
        position = json.loads((path / "data" / "metadata").read_text())
        return [read_numpy(path / name) for name in ("params", "ema", "rest")], position

    (one, position), (other, other_position) = read(left), read(right)
    equal = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), one, other)
    return position == other_position and jax.tree.all(equal)


if __name__ == "__main__":
    apps.run(main)
