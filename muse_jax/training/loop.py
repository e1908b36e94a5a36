"""Training loop: one for all tasks, from a single CPU to a mesh of devices."""

import contextlib
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn

from muse_jax.checkpointing.run import Checkpoints, explain_full_disk, prepare_workdir
from muse_jax.checkpointing.run_config import save_config, save_tokenizer_hashes
from muse_jax.evaluation.evaluators import Context, make_evaluators
from muse_jax.evaluation.loss import eval_batches
from muse_jax.sharding.partitioning import RULES, check_batch_size, make_mesh, put_batch
from muse_jax.training.config import check_same_run
from muse_jax.training.deadline import Deadline, skip_to
from muse_jax.training.divergence import DivergenceDetector, roll_back
from muse_jax.training.evaluate import jit_on_batch, put_frozen, write_report
from muse_jax.training.initialization import initial_state
from muse_jax.training.metrics import MetricWriter, ProgressLine
from muse_jax.training.optimizers import make_optimizer, make_schedule
from muse_jax.training.preemption import Stopped, StopSignals, hold_workdir
from muse_jax.training.prefetch import Prefetch
from muse_jax.training.profiling import Clock, ProfileWindow, Throughput, Watchdog
from muse_jax.training.state import TrainState, create_state, jit_train_step, make_train_step
from muse_jax.training.task import Task


def train(config: Any, task: Task, workdir: str | Path) -> TrainState:
    """Trains `task` until `config.total_steps`, resuming from the newest checkpoint of `workdir`.

    The workdir receives the config, checkpoints/, metrics.jsonl, tensorboard/ and previews/.

    Args:
      config: complete, from `validate_config`.
      task: what is trained, see `Task`.
      workdir: directory of the run, created if it does not exist.

    Returns:
      The state after the last step.

    Raises:
      ValueError: the workdir cannot be written to, is in use by another run or belongs to a different one;
        the mesh does not divide the batch size; the data ends; the disk is full; gradients stay non-finite.
      Stopped: SIGTERM or SIGINT arrived. The current step was finished and its checkpoint saved.
    """
    deadline = Deadline(config.time_limit, config.total_steps)
    mesh = make_mesh(config.mesh)
    check_batch_size(config.data.batch_size, mesh, config.optim.accumulate)
    workdir = prepare_workdir(workdir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(explain_full_disk(workdir))
        stack.enter_context(hold_workdir(workdir))
        hashes = task.tokenizer_hashes()
        check_same_run(workdir, config, hashes)
        if jax.process_index() == 0:
            save_config(workdir, config)
            save_tokenizer_hashes(workdir, hashes)
        if config.compile_cache:
            jax.config.update("jax_compilation_cache_dir", config.compile_cache)
        signals = stack.enter_context(StopSignals())
        stack.enter_context(jax.set_mesh(mesh))
        stack.enter_context(nn.logical_axis_rules(RULES))
        run = _Run(config, task, workdir, mesh, stack)
        if run.step >= config.total_steps:
            run.progress.print(f"Nothing to do: {workdir} is at step {run.step} of {config.total_steps}.")
            return run.state
        run.prepare_steps(stack)
        run.train(deadline, signals)
        return run.state


class _Run:
    """A run in progress: its training state, its compiled functions and its outputs.

    `stack` closes what the run opens.
    """

    def __init__(self, config: Any, task: Task, workdir: Path, mesh: Any, stack: contextlib.ExitStack):
        self.config, self.task, self.workdir, self.mesh = config, task, workdir, mesh
        evaluated = bool(config.evaluators or config.eval_every)
        self.evaluators = make_evaluators(Context(task, config, mesh)) if evaluated else []
        self.loader = task.make_loader(config.data.split, config.seed)
        if hasattr(self.loader, "close"):
            stack.callback(self.loader.close)
        self.frozen = put_frozen(task, mesh)
        self.checkpoints = Checkpoints(workdir, config.keep_checkpoints)
        stack.callback(self.checkpoints.close)
        is_main = jax.process_index() == 0
        self.writer = MetricWriter(workdir, active=is_main)
        stack.callback(self.writer.close)
        self.progress = ProgressLine(config.total_steps, active=is_main)

        self.optimizer = make_optimizer(config.optim, config.total_steps)
        fresh, self.shapes, self.shardings = create_state(task, self.optimizer, config.seed, mesh)
        self.state, self.rollbacks = initial_state(
            config,
            task,
            self.loader,
            self.checkpoints,
            fresh,
            self.shapes,
            self.shardings,
            self.progress.print,
        )
        self.step = int(self.state.step)
        count = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        self.progress.restart(self.step)
        self.progress.print(
            f"{config.task}: {count / 1e6:.2f}M parameters, {mesh.size} x {jax.devices()[0].device_kind}, "
            + (f"resuming from step {self.step}" if self.step else "from step 0")
        )

    def prepare_steps(self, stack: contextlib.ExitStack) -> None:
        """Jits the step and starts the threads that accompany it; a finished run needs none of them."""
        config, task, mesh = self.config, self.task, self.mesh
        schedule = make_schedule(config.optim, config.total_steps)
        self.train_step = make_train_step(task, self.optimizer, schedule, config, self.shardings)
        self.step_fn = jit_train_step(self.train_step, self.shardings, self.frozen, mesh)
        self.preview_fn = jit_on_batch(task.preview, self.shardings.ema, self.frozen, mesh)
        self.throughput = Throughput(config.data.batch_size, mesh.devices.flat[0], mesh.size)
        self.clock = Clock()
        stacks_file = self.workdir / f"stacks_{jax.process_index()}.txt"
        self.watchdog = Watchdog(config.watchdog, self.clock, stacks_file)
        stack.callback(self.watchdog.close)
        self.window = ProfileWindow(config.profile_steps, self.workdir)
        stack.callback(self.window.close)
        self.batches = Prefetch(self.loader, mesh)
        stack.callback(self.batches.close)
        # Without skipping, the first non-finite step has already corrupted the weights.
        limit = config.optim.rollback_after if config.optim.skip_nonfinite else 1
        self.divergence = DivergenceDetector(limit if config.optim.rollback_after else 0)
        self.pending: list[Any] = []  # scalars of the newest steps, still on the devices

    def train(self, deadline: Deadline, signals: StopSignals) -> None:
        """Takes the remaining steps, and logs, evaluates, previews and saves between them."""
        config = self.config
        while self.step < config.total_steps:
            previous = self.step
            if previous % config.log_every == 0:
                self._skip_to(deadline.due(previous, config.log_every))
            self._take_step()
            last = self.step == config.total_steps
            signal = signals.due()
            log = is_due(config.log_every, self.step - 1, self.step, last)
            save = bool(signal) or is_due(config.checkpoint_every, previous, self.step, last)
            if log or save:
                self._fetch_scalars()
            if self.divergence.diverged:
                self._roll_back()
                continue
            if log:
                self._log()
            self._evaluate(previous, last)
            if is_due(config.preview_every, previous, self.step, last):
                self._preview()
            if save and self._may_save(last, bool(signal)):
                self._save()
            if signal and not last:
                self._stop(signal)
        with self.clock.phase("checkpoint"):
            self.checkpoints.wait()
        self.progress.print(self.clock.summary())

    def _skip_to(self, step: int) -> None:
        """Skips the steps for which a time limit leaves no time."""
        if step > self.step:
            self.state, self.step = skip_to(self.state, step), step
            self.progress.restart(step)

    def _take_step(self) -> None:
        """Dispatches the next step; its scalars stay on the devices."""
        self.step += 1
        self.watchdog.beat(self.step)
        with self.clock.phase("input_wait"):
            batch = self._next_batch()
        if not isinstance(self.step_fn, jax.stages.Compiled):
            with self.clock.phase("compile"):
                self.step_fn = self.step_fn.lower(self.state, self.frozen, batch).compile()
                self.throughput.count_flops(self.train_step, self.state, self.frozen, batch)
        self.window.before(self.step)
        with self.clock.phase("step"):
            self.state, scalars = self.step_fn(self.state, self.frozen, batch)
            self.pending.append(scalars)
        self.window.after(self.step, self.state)

    def _next_batch(self) -> Any:
        try:
            return next(self.batches)
        except StopIteration:
            raise ValueError(
                f"The split {self.config.data.split!r} ended while training: it must repeat, and hold at "
                "least one batch."
            ) from None

    def _fetch_scalars(self) -> None:
        """Copies the pending scalars to the host: the only place where the loop waits for the devices."""
        with self.clock.phase("step"):
            self.divergence.record(jax.device_get(self.pending))
            self.pending.clear()

    def _roll_back(self) -> None:
        """Returns to the newest checkpoint; the data continues where it is."""
        self.rollbacks += 1
        del self.state  # frees the memory before the checkpoint is read
        self.state = roll_back(
            self.config,
            self.checkpoints,
            self.divergence.consecutive,
            self.step,
            self.rollbacks,
            self.shapes,
            self.shardings,
            self.progress.print,
        )
        self.step = int(self.state.step)
        self.progress.restart(self.step)
        self.divergence.reset()

    def _log(self) -> None:
        seconds, shares = self.clock.lap()
        rates = self.throughput.rates(self.progress.speed(self.step, seconds))
        row = {
            **self.divergence.means(),
            **rates,
            **shares,
            "corrupt_records": getattr(self.loader, "skipped", 0),
            "rollbacks": self.rollbacks,
        }
        self.writer.scalars(self.step, row)
        self.progress.show(self.step, row["loss"], row["examples_per_second"], row.get("mfu"))

    def _evaluate(self, previous: int, last: bool) -> None:
        """Runs the evaluators that are due on the averaged weights."""
        for evaluator in self.evaluators:
            if is_due(evaluator.every or self.config.total_steps, previous, self.step, last):
                with self.clock.phase("eval"):
                    report = evaluator(self.state.ema, self.frozen)
                self.progress.print(write_report(self.writer, self.step, evaluator.name, report))

    def _preview(self) -> None:
        """Writes the task's preview of the first evaluation batch."""
        with self.clock.phase("eval"):
            for batch in eval_batches(self.task, self.config.data.eval_split, limit=1):
                batch = put_batch(batch, self.mesh)
                preview = self.preview_fn(
                    self.state.ema, self.frozen, batch, jax.random.key(self.config.seed)
                )
                self.writer.previews(self.step, jax.device_get(preview))

    def _may_save(self, last: bool, stopping: bool) -> bool:
        """Whether a checkpoint of this step is worth resuming from.

        A checkpoint to roll back to must predate a series of non-finite steps. A run that has to stop saves
        nevertheless, provided that such steps were skipped and left the weights intact.
        """
        intact = self.config.optim.skip_nonfinite or not self.divergence.consecutive
        return last or not self.divergence.consecutive or (stopping and intact)

    def _save(self) -> None:
        with self.clock.phase("checkpoint"):
            self.checkpoints.save(self.step, self.state, self.batches.get_state(), self.rollbacks)

    def _stop(self, signal: int) -> None:
        """Ends the run on a signal.

        Raises:
          Stopped: always.
        """
        self.checkpoints.wait()
        self.progress.print(
            f"Stopped at step {self.step}, with a checkpoint of step {self.checkpoints.latest_step()}: run "
            "the same command to continue."
        )
        raise Stopped(signal)


def is_due(every: int, previous: int, step: int, last: bool) -> bool:
    """True if a multiple of `every` lies in (previous, step], or at the last step; never if `every` is 0."""
    return every > 0 and (step // every > previous // every or last)
