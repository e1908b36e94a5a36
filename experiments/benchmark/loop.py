"""Overhead of the training loop over its compiled step, and its wait for batches.

python -m experiments.benchmark.loop --config=configs/emoji/base.py [--steps=200]

The same step runs on one batch that is already on the device, before and after `train` runs it with its
loader, log and watchdog. The figures are medians over blocks of steps, without evaluation, previews and
checkpoints, like the steps per second in the log.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from absl import flags
from flax import linen as nn

from experiments import apps
from muse_jax.sharding.partitioning import RULES, make_mesh, put_batch
from muse_jax.system import make_task
from muse_jax.training import train, validate_config
from muse_jax.training.evaluate import put_frozen
from muse_jax.training.optimizers import make_optimizer, make_schedule
from muse_jax.training.state import create_state, jit_train_step, make_train_step

STEPS = flags.DEFINE_integer("steps", 200, "Steps of each measurement.", lower_bound=2)
BLOCK = flags.DEFINE_integer("block", 20, "Steps between two readings of the clock.", lower_bound=1)


def main() -> None:
    """Measures and prints the result as JSON."""
    if not flags.FLAGS.config:
        raise ValueError("Give --config=FILE, for instance configs/emoji/base.py.")
    config = flags.FLAGS.config
    config.update(total_steps=STEPS.value + BLOCK.value, log_every=BLOCK.value, eval_every=0, preview_every=0)
    config.checkpoint_every = config.total_steps
    config = validate_config(config)
    bare = BareStep(config)
    before = bare.seconds()
    with tempfile.TemporaryDirectory() as workdir:
        train(config, make_task(config), workdir)
        lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    rows = lines[1:]  # the first block warms up
    after = bare.seconds()
    step, looped = (
        statistics.median(before + after),
        statistics.median(1 / r["steps_per_second"] for r in rows),
    )
    result = {
        "bare_step_seconds": step,
        "bare_step_seconds_before_and_after": [statistics.median(before), statistics.median(after)],
        "loop_step_seconds": looped,
        "overhead": looped / step - 1,
        "input_wait": statistics.median(row["input_wait"] for row in rows),
        "steps": STEPS.value,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    print(json.dumps(result, indent=1))


class BareStep:
    """The compiled step of a config, its state and one batch."""

    def __init__(self, config: Any):
        task, self._mesh = make_task(config), make_mesh(config.mesh)
        optimizer = make_optimizer(config.optim, config.total_steps)
        with jax.set_mesh(self._mesh), nn.logical_axis_rules(RULES):
            self._frozen = put_frozen(task, self._mesh)
            fresh, _, shardings = create_state(task, optimizer, config.seed, self._mesh)
            schedule = make_schedule(config.optim, config.total_steps)
            step = make_train_step(task, optimizer, schedule, config, shardings)
            self._state = fresh()
            self._batch = put_batch(next(task.make_loader(config.data.split, config.seed)), self._mesh)
            jitted = jit_train_step(step, shardings, self._frozen, self._mesh)
            self._step = jitted.lower(self._state, self._frozen, self._batch).compile()

    def block(self) -> float:
        """Seconds per step over one block of steps."""
        began = time.perf_counter()
        for _ in range(BLOCK.value):
            self._state, scalars = self._step(self._state, self._frozen, self._batch)
        jax.block_until_ready((self._state, scalars))
        return (time.perf_counter() - began) / BLOCK.value

    def seconds(self) -> list[float]:
        """Seconds per step of each block, after an untimed one."""
        self.block()
        return [self.block() for _ in range(max(1, STEPS.value // BLOCK.value))]


if __name__ == "__main__":
    apps.run(main)
