"""The training loop: the same for every task, from one CPU to a mesh of devices."""

import contextlib
import itertools
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn

from muse_jax.checkpointing.run import Checkpoints, full_disk_in_one_sentence, prepare_workdir
from muse_jax.sharding.partitioning import RULES, check_batch_size, make_mesh
from muse_jax.training.config import check_same_run, save_config
from muse_jax.training.deadline import Deadline, skip_to
from muse_jax.training.evaluate import (
    close,
    eval_batches,
    jit_evaluate,
    jit_on_batch,
    put_frozen,
    split_scores,
)
from muse_jax.training.initialization import begin, go_back
from muse_jax.training.metrics import MetricWriter, Progress
from muse_jax.training.optimizers import make_optimizer, make_schedule
from muse_jax.training.preemption import FiniteWatch, Stopped, StopSignals, hold_workdir
from muse_jax.training.prefetch import Prefetch
from muse_jax.training.profiling import Clock, Meter, ProfileWindow, Watchdog
from muse_jax.training.state import Task, TrainState, create_state, jit_train_step, make_train_step


def train(config: Any, task: Task, workdir: str | Path) -> TrainState:
    """Trains `task` to `config.total_steps` and returns the last state; goes on where an earlier one stopped.

    What lies in `workdir` afterwards: config.json, checkpoints/, metrics.jsonl, tensorboard/, previews/.

    Args:
      config: complete, from `validate_config`.
      task: see `Task`.
      workdir: made if it is not there.

    Raises:
      ValueError: one sentence, for a workdir that cannot be written, or that another run holds or made, a
        batch that the mesh does not divide, data that ends, a full disk, weights that stay without a finite
        gradient.
      Stopped: SIGTERM or SIGINT came; the step under way was finished and saved.
    """
    deadline = Deadline(config.time_limit, config.total_steps)
    mesh = make_mesh(config.mesh)
    check_batch_size(config.data.batch_size, mesh, config.optim.accumulate)
    workdir = prepare_workdir(workdir)
    main = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(full_disk_in_one_sentence(workdir))
        stack.enter_context(hold_workdir(workdir))
        check_same_run(workdir, config)
        if main:
            save_config(workdir, config)
        if config.compile_cache:
            jax.config.update("jax_compilation_cache_dir", config.compile_cache)
        signals = stack.enter_context(StopSignals())
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
        progress = Progress(config.total_steps, active=main)
        state, rollbacks = begin(config, loader, checkpoints, fresh, shapes, shardings, progress.say)
        step = start = int(state.step)
        progress.restart(step)
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        progress.say(
            f"{config.task}: {count / 1e6:.2f}M parameters, {mesh.size} x {jax.devices()[0].device_kind}, "
            + (f"going on from step {start}" if start else "from step 0")
        )
        if start >= config.total_steps:
            progress.say(f"Nothing to do: {workdir} is at step {start} of {config.total_steps}.")
            return state

        train_step = make_train_step(task, optimizer, schedule, config, shardings)
        step_fn = jit_train_step(train_step, shardings, frozen, mesh)
        evaluate = jit_evaluate(task, shardings.ema, frozen, mesh)
        preview = jit_on_batch(task.preview, shardings.ema, frozen, mesh)
        meter = Meter(config.data.batch_size, mesh.devices.flat[0], mesh.size)
        clock = Clock()
        watchdog = Watchdog(config.watchdog, clock, workdir / f"stacks_{jax.process_index()}.txt")
        stack.callback(watchdog.close)
        window = ProfileWindow(config.profile_steps, workdir)
        stack.callback(window.close)
        batches = Prefetch(loader, mesh)
        stack.callback(batches.close)
        # Without skipping, the first such step has spoilt the weights.
        patience = config.optim.rollback_after if config.optim.skip_nonfinite else 1
        finite = FiniteWatch(patience if config.optim.rollback_after else 0)
        pending: list[Any] = []  # scalars that are still on the device

        while step < config.total_steps:
            before = step
            if step % config.log_every == 0:
                step = deadline.due(step, config.log_every)
            if step > before:
                state = skip_to(state, step)
                progress.restart(step)
            step += 1
            last = step == config.total_steps
            watchdog.beat(step)
            with clock.part("input_wait"):
                batch = _next(batches, config.data.split)
            if not isinstance(step_fn, jax.stages.Compiled):
                with clock.part("compile"):
                    step_fn = step_fn.lower(state, frozen, batch).compile()
                    meter.count(train_step, state, frozen, batch)
            window.before(step)
            with clock.part("step"):
                state, scalars = step_fn(state, frozen, batch)
                pending.append(scalars)
            window.after(step, state)

            stopping = signals.due()
            saving = due(before, step, config.checkpoint_every, last) or stopping
            logging = due(step - 1, step, config.log_every, last)
            if logging or saving:
                with clock.part("step"):  # the only waits for the device in the loop
                    finite.see(jax.device_get(pending))
                    pending.clear()
            if finite.spoilt:
                rollbacks += 1
                del state, scalars, batch
                state = go_back(config, checkpoints, finite, step, rollbacks, shapes, shardings, progress.say)
                step = int(state.step)
                progress.restart(step)
                finite.forget()
                continue
            if logging:
                trained, shares = clock.lap()
                row = {**finite.means(), **meter.rates(progress.speed(step, trained)), **shares}
                row |= {"corrupt_records": getattr(loader, "skipped", 0), "rollbacks": rollbacks}
                writer.scalars(step, row)
                progress.show(step, row["loss"], row["images_per_second"], row.get("mfu"))
            if due(before, step, config.eval_every, last):
                with clock.part("eval"):
                    found = eval_batches(task, config, mesh)
                    scores, examples = split_scores(evaluate, task, state.ema, frozen, found, config.seed)
                    writer.scalars(step, {**scores, "examples": examples}, prefix="eval")
                progress.say(f"step {step}  eval " + "  ".join(f"{k} {v:.4f}" for k, v in scores.items()))
            if due(before, step, config.preview_every, last):
                with clock.part("eval"):
                    for first in itertools.islice(eval_batches(task, config, mesh), 1):
                        pictures = preview(state.ema, frozen, first, jax.random.key(config.seed))
                        writer.pictures(step, jax.device_get(pictures))
            # A skipped step leaves the weights as they were, so that a run told to stop can save them; a
            # checkpoint to go back to is from before such steps.
            intact = config.optim.skip_nonfinite or not finite.in_a_row
            if saving and (last or not finite.in_a_row or (stopping and intact)):
                with clock.part("checkpoint"):
                    checkpoints.save(step, state, batches.get_state(), rollbacks)
            if stopping and not last:
                checkpoints.wait()
                progress.say(
                    f"Stopped at step {step}, with a checkpoint of step {checkpoints.latest_step()}: run the "
                    "same command to go on."
                )
                raise Stopped(stopping)
        with clock.part("checkpoint"):
            checkpoints.wait()
        progress.say(clock.summary())
        return state


def due(before: int, step: int, every: int, last: bool) -> bool:
    """Whether something done every so many steps (0: never) and after the last one is due after `before`."""
    return every > 0 and (step // every > before // every or last)


def _next(batches: Prefetch, split: str) -> Any:
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(
            f"The split {split!r} ended while training: it must repeat, and hold at least one batch."
        ) from None
