"""Checkpoints of a run: atomic, asynchronous, the last few kept, the data's position beside the weights."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from muse_jax.training.state import TrainState


def prepare_workdir(workdir: str | Path) -> Path:
    """Makes `workdir`, with its parents, and proves that it can be written to.

    Raises:
      ValueError: one sentence, if it cannot be made or written to.
    """
    path = Path(workdir).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write_test_{jax.process_index()}_{os.getpid()}"
        probe.write_text("ok")
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"The workdir {workdir} cannot be written to ({reason}): give a --workdir that you may write to."
        ) from error
    return path


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one it came from, says that no space is left (tensorstore says it in words)."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "no space left" in str(error).lower() or "quota exceeded" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def _encode(state: Any) -> dict[str, Any]:
    if isinstance(state, bytes):
        return {"bytes": state.decode("latin-1")}
    return {"value": json.loads(json.dumps(state, default=lambda value: value.tolist()))}


def _decode(stored: dict[str, Any]) -> Any:
    return stored["bytes"].encode("latin-1") if "bytes" in stored else stored["value"]


@contextlib.contextmanager
def full_disk_in_one_sentence(workdir: str | Path) -> Iterator[None]:
    """Turns the errors of a full disk, from whatever was writing, into a ValueError that says what is left.

    A checkpoint that could not be finished has no directory of its own yet, so the ones before it are whole.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        steps = _steps(workdir)
        kept = f"the checkpoint of step {steps[-1]} is intact" if steps else "there is no checkpoint yet"
        raise ValueError(
            f"No space is left to write under {workdir}: {kept}; free some and run the same command again."
        ) from error


def _steps(workdir: str | Path) -> list[int]:
    directory = Path(workdir).absolute() / "checkpoints"
    return sorted(ocp.utils.checkpoint_steps(directory)) if directory.is_dir() else []


class Checkpoints:
    """The checkpoints under workdir/checkpoints, one directory a step, that appears only when whole."""

    def __init__(self, workdir: str | Path, keep: int = 2):
        self.directory = Path(workdir).absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data_state: Any) -> None:
        """Starts writing in the background; an error of the write before this one is raised here."""
        rest = {"step": state.step, "skipped": state.skipped, "opt_state": state.opt_state}
        items = {
            "params": ocp.args.StandardSave(state.params),
            "ema": ocp.args.StandardSave(state.ema),
            "rest": ocp.args.StandardSave(rest),
            "data": ocp.args.JsonSave(_encode(data_state)),
        }
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def wait(self) -> None:
        """Waits until what was started is written; raises as `save` does."""
        self._manager.wait_until_finished()

    def restore(
        self, shapes: TrainState, shardings: TrainState, step: int | None = None
    ) -> tuple[TrainState, Any]:
        """The state of a step (the newest by default), laid out as `shardings`, and the data's position."""
        step = self.latest_step() if step is None else step
        target = jax.tree.map(
            lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        rest = {"step": target.step, "skipped": target.skipped, "opt_state": target.opt_state}
        args = ocp.args.Composite(
            params=ocp.args.StandardRestore(target.params),
            ema=ocp.args.StandardRestore(target.ema),
            rest=ocp.args.StandardRestore(rest),
            data=ocp.args.JsonRestore(),
        )
        found = self._manager.restore(step, args=args)
        state = TrainState(params=found["params"], ema=found["ema"], **found["rest"])
        return state, _decode(found["data"])

    def close(self) -> None:
        """Ends the background writer."""
        self._manager.close()


def latest_step(workdir: str | Path) -> int:
    """The step of the newest whole checkpoint of a run.

    Raises:
      ValueError: if there is none.
    """
    steps = _steps(workdir)
    if not steps:
        raise ValueError(f"{workdir} has no checkpoint: train there first.")
    return steps[-1]


def restore_params(workdir: str | Path, ema: bool = True, step: int | None = None) -> Any:
    """The weights of a trained run as numpy arrays, whatever devices it was trained on.

    Args:
      workdir: a run's workdir.
      ema: the averaged weights rather than the raw ones.
      step: the newest by default.

    Raises:
      ValueError: if there is no such checkpoint.
    """
    step = latest_step(workdir) if step is None else step
    path = Path(workdir).absolute() / "checkpoints" / str(step) / ("ema" if ema else "params")
    if not path.is_dir():
        raise ValueError(f"{workdir} has no checkpoint of step {step}: the newest is {latest_step(workdir)}.")
    with ocp.PyTreeCheckpointer() as reader:
        tree = ocp.PyTreeCheckpointHandler().metadata(path).tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
