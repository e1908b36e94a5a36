"""The training loop: the same for every task, from one CPU to a mesh of devices."""

import contextlib
import dataclasses
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from muse_jax.training.checkpoints import Checkpoints, full_disk_in_one_sentence, prepare_workdir
from muse_jax.training.config import check_same_run, save_config
from muse_jax.training.evaluate import close, eval_batches, jit_on_batch, mean_scores, put_frozen
from muse_jax.training.flops import count_flops, peak_flops
from muse_jax.training.logging import MetricWriter, Progress
from muse_jax.training.optimizers import make_optimizer, make_schedule
from muse_jax.training.partitioning import (
    RULES,
    check_batch_size,
    make_mesh,
    put_batch,
)
from muse_jax.training.pretrained import trained_params
from muse_jax.training.state import Task, TrainState, create_state, jit_train_step, make_train_step


def train(config: Any, task: Task, workdir: str | Path) -> TrainState:
    """Trains `task` to `config.total_steps` and returns the last state; goes on where an earlier one stopped.

    What lies in `workdir` afterwards: config.json, checkpoints/, metrics.jsonl, tensorboard/, previews/.

    Args:
      config: complete, from `validate_config`.
      task: see `Task`.
      workdir: made if it is not there.

    Raises:
      ValueError: one sentence, for a workdir that cannot be written or holds another run, a batch that the
        mesh does not divide, data that ends, a full disk.
    """
    mesh = make_mesh(config.mesh)
    check_batch_size(config.data.batch_size, mesh)
    workdir = prepare_workdir(workdir)
    check_same_run(workdir, config)
    main = jax.process_index() == 0
    if main:
        save_config(workdir, config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(full_disk_in_one_sentence(workdir))
        stack.enter_context(jax.set_mesh(mesh))
        stack.enter_context(nn.logical_axis_rules(RULES))
        loader = task.make_loader(config.data.split, config.seed)
        stack.callback(close, loader)
        frozen = put_frozen(task, mesh)
        checkpoints = Checkpoints(workdir, config.keep_checkpoints)
        stack.callback(checkpoints.close)
        writer = MetricWriter(workdir, active=main)
        stack.callback(writer.close)

        schedule = make_schedule(config.optim, config.total_steps)
        optimizer = make_optimizer(config.optim, config.total_steps)
        fresh, shapes, shardings = create_state(task, optimizer, config.seed, mesh)
        if checkpoints.latest_step() is not None:
            state, position = checkpoints.restore(shapes, shardings)
            loader.set_state(position)  # type: ignore[attr-defined]
        else:
            state = fresh()
            if config.init_from:
                state = start_from(state, config.task, config.init_from, shardings)
        start = int(state.step)
        progress = Progress(config.total_steps, start, active=main)
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        progress.say(
            f"{config.task}: {count / 1e6:.2f}M parameters, {mesh.size} x {jax.devices()[0].device_kind}, "
            + (f"going on from step {start}" if start else "from step 0")
        )
        if start >= config.total_steps:
            progress.say(f"Nothing to do: {workdir} is at step {start} of {config.total_steps}.")
            return state

        train_step = make_train_step(task, optimizer, schedule, config)
        step_fn = jit_train_step(train_step, shardings, frozen, mesh)
        meter = Meter(config, mesh.devices.flat[0], mesh.size)
        evaluate = jit_on_batch(task.evaluate, shardings.ema, frozen, mesh)
        preview = jit_on_batch(task.preview, shardings.ema, frozen, mesh)
        window: list[Any] = []  # scalars since the last log, still on the device
        for step in range(start + 1, config.total_steps + 1):
            batch = put_batch(_next(loader, config.data.split), mesh)
            if step == start + 1:
                began = time.perf_counter()
                step_fn = step_fn.lower(state, frozen, batch).compile()
                meter.count(train_step, state, frozen, batch)
                progress.pause(time.perf_counter() - began)
            state, scalars = step_fn(state, frozen, batch)
            window.append(scalars)
            last = step == config.total_steps

            if step % config.log_every == 0 or last:
                # The only wait for the device in the loop; the newest count of skips, the mean of all else.
                fetched = jax.device_get(window)
                window.clear()
                row = {name: float(np.mean([scalars[name] for scalars in fetched])) for name in fetched[0]}
                row |= {"skipped": float(fetched[-1]["skipped"]), **meter.rates(progress.speed(step))}
                writer.scalars(step, row)
                progress.show(step, row["loss"], row["images_per_second"], row.get("mfu"))
            began = time.perf_counter()
            if due(step, config.eval_every, last):
                batches = eval_batches(task, config, mesh)
                scores = mean_scores(evaluate, task.summarize, state.ema, frozen, batches, config.seed)
                writer.scalars(step, scores, prefix="eval")
                progress.say(f"step {step}  eval " + "  ".join(f"{k} {v:.4f}" for k, v in scores.items()))
            if due(step, config.preview_every, last):
                for first in itertools.islice(eval_batches(task, config, mesh), 1):
                    pictures = preview(state.ema, frozen, first, jax.random.key(config.seed))
                    writer.pictures(step, jax.device_get(pictures))
            if step % config.checkpoint_every == 0 or last:
                checkpoints.save(step, state, loader.get_state())  # type: ignore[attr-defined]
            progress.pause(time.perf_counter() - began)
        checkpoints.wait()
        return state


def due(step: int, every: int, last: bool) -> bool:
    """Whether something done every so many steps (0: never) and after the last one is to be done now."""
    return every > 0 and (step % every == 0 or last)


def start_from(state: TrainState, task: str, source: str, shardings: TrainState) -> TrainState:
    """A fresh state whose weights come from an earlier run or a checkpoint where path and shape agree.

    Raises:
      ValueError: if nothing agrees.
    """
    fresh = jax.device_get(state.params)
    leaves = jax.tree_util.tree_leaves_with_path(trained_params(task, source))
    given = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    taken: list[str] = []

    def pick(path: Any, leaf: np.ndarray) -> np.ndarray:
        found = given.get(jax.tree_util.keystr(path))
        if found is None or found.shape != leaf.shape:
            return leaf
        taken.append(jax.tree_util.keystr(path))
        return found.astype(leaf.dtype)

    params = jax.tree_util.tree_map_with_path(pick, fresh)
    if not taken:
        raise ValueError(
            f"config.init_from={source!r} has no weight that this model has: take a run of its kind."
        )
    print(f"{len(taken)} of {len(jax.tree.leaves(fresh))} weights come from {source}", file=sys.stderr)
    put = lambda tree: jax.device_put(tree, shardings.params)  # noqa: E731
    return dataclasses.replace(state, params=put(params), ema=put(jax.tree.map(np.copy, params)))


@dataclasses.dataclass
class Meter:
    """Turns steps a second into images a second and model FLOPs utilisation."""

    config: Any
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
            "images_per_second": steps_per_second * self.config.data.batch_size,
        }
        if self.peak:
            rates["mfu"] = steps_per_second * self.flops / (self.peak * self.devices)
        return rates


def _next(loader: Any, split: str) -> Any:
    try:
        return next(loader)
    except StopIteration:
        raise ValueError(
            f"The split {split!r} ended while training: it must repeat, and hold at least one batch."
        ) from None
