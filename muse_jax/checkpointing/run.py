"""Checkpoints of a training run (Orbax): atomic, asynchronous, with the position in the data."""

import contextlib
import errno
import gc
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from muse_jax.sharding.distributed import all_processes

T = TypeVar("T")


def prepare_workdir(workdir: str | Path) -> Path:
    """Creates `workdir` and its parents, and checks that it is writable.

    Raises:
      ValueError: it cannot be created or written to.
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
    """True if an error, or one of its causes, is a full disk (which tensorstore reports only as text)."""
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
def explain_full_disk(workdir: str | Path) -> Iterator[None]:
    """Context that turns the errors of a full disk into a ValueError naming the newest intact checkpoint.

    An unfinished checkpoint has no directory yet, so the earlier ones are intact.
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


class Restored(NamedTuple):
    """Contents of a checkpoint: training state, position in the data, and number of rollbacks so far."""

    state: Any
    data: Any
    rollbacks: int


class Checkpoints:
    """Checkpoints under workdir/checkpoints: one directory per step, which appears only when complete.

    The position in the data counts the batches of all processes together, so that a run can resume on a
    different number of processes.

    Args:
      workdir: of the run.
      keep: number of newest checkpoints to keep.
    """

    def __init__(self, workdir: str | Path, keep: int = 2):
        self._workdir = Path(workdir).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self._workdir / "checkpoints", options=options)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, data_state: Any, rollbacks: int = 0) -> None:
        """Starts writing in the background; raises any error of the previous write."""
        items = {name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
        data = ocp.args.JsonSave({**_encode(data_state), "rollbacks": rollbacks})
        self._manager.save(step, args=ocp.args.Composite(**items, data=data), force=True)

    def wait(self) -> None:
        """Waits for the write in the background; raises its error."""
        self._manager.wait_until_finished()

    def restore(self, shapes: Any, shardings: Any, step: int | None = None) -> Restored:
        """Restores the checkpoint of a step.

        Args:
          shapes: of the state.
          shardings: of the state.
          step: by default the newest readable one; damaged ones are moved to workdir/damaged.

        Raises:
          ValueError: the shapes differ from the checkpoint's, or no checkpoint can be read.
        """
        target = _items(
            jax.tree.map(
                lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
                shapes,
                shardings,
            )
        )

        def read(path: Path) -> Restored:
            found = {name: _read_item(path / name, item) for name, item in target.items()}
            data = json.loads((path / "data" / "metadata").read_text())
            state = shapes.replace(params=found["params"], ema=found["ema"], **found["rest"])
            return Restored(state, _decode(data), data.get("rollbacks", 0))

        if step is not None:
            return read(self._workdir / "checkpoints" / str(step))
        return _newest_good(self._workdir, read, self._quarantine)

    def _quarantine(self, step: int) -> None:
        if jax.process_index() == 0:
            folder = self._workdir / "damaged"
            folder.mkdir(exist_ok=True)
            shutil.rmtree(folder / str(step), ignore_errors=True)
            (self._workdir / "checkpoints" / str(step)).rename(folder / str(step))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("quarantine a damaged checkpoint")
        self._manager.reload()

    def close(self) -> None:
        """Closes the background writer."""
        self._manager.close()


def _items(state: Any) -> dict[str, Any]:
    rest = {"step": state.step, "skipped": state.skipped, "opt_state": state.opt_state}
    return {"params": state.params, "ema": state.ema, "rest": rest}


class IncompatibleCheckpoint(ValueError):
    """A checkpoint is readable but belongs to another config."""


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {"/".join(path): tuple(leaf.shape) for path, leaf in ocp.tree.to_flat_dict(tree).items()}


def _read_item(path: Path, target: Any) -> Any:
    """Reads one item with the structure, shapes and shardings of `target`. Not a collective call."""
    handler = ocp.StandardCheckpointHandler()
    if (path / "_METADATA").is_file():
        stored, wanted = _shapes(handler.metadata(path).tree), _shapes(target)
        for name in sorted(stored.keys() | wanted.keys()):
            if stored.get(name) != wanted.get(name):
                raise IncompatibleCheckpoint(
                    f"The checkpoint {path.parent} belongs to another config: its {path.name}/{name} is "
                    f"{_describe(stored.get(name))}, this config's is {_describe(wanted.get(name))}; use "
                    "another --workdir or the config of that run."
                )
    return handler.restore(path, args=ocp.args.StandardRestore(target))


def _describe(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of shape {shape}"


def _newest_good(workdir: Path, read: Callable[[Path], T], quarantine: Callable[[int], None]) -> T:
    """The result of `read` for the newest checkpoint that every process can read.

    Unreadable ones are logged and quarantined, but only if another can be read: otherwise the cause may lie
    elsewhere.
    """
    unreadable: dict[int, str] = {}
    for step in reversed(_steps(workdir)):
        found, reason = None, "another process could not read it"
        with _suppress_unraisable():
            try:
                found = read(workdir / "checkpoints" / str(step))
            except IncompatibleCheckpoint:
                raise
            except Exception as error:  # readers of a damaged file raise errors of many types
                reason = (str(error).splitlines() or [""])[0][:200]
        if not all_processes(found is not None):
            unreadable[step] = reason
            continue
        for damaged, reason in unreadable.items():
            logging.warning(
                "The checkpoint of step %d is damaged, using step %d instead: %s", damaged, step, reason
            )
            quarantine(damaged)
        return cast(T, found)
    raise ValueError(
        f"None of the checkpoints of {workdir} (steps {', '.join(map(str, unreadable))}) can be read: "
        f"{next(iter(unreadable.values()))}"
    )


@contextlib.contextmanager
def _suppress_unraisable() -> Iterator[None]:
    """Suppresses "exception ignored" messages of abandoned asynchronous reads."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        gc.collect()
        sys.unraisablehook = hook


def latest_step(workdir: str | Path) -> int:
    """The step of the newest checkpoint of a run.

    Raises:
      ValueError: there is no checkpoint.
    """
    steps = _steps(workdir)
    if not steps:
        raise ValueError(f"{workdir} has no checkpoint: train there first.")
    return steps[-1]


def restore_params(workdir: str | Path, ema: bool = True, step: int | None = None) -> Any:
    """Reads the weights of a run as numpy arrays, independently of the devices it was trained on.

    Args:
      workdir: of the run.
      ema: True for the averaged weights, False for the raw ones.
      step: of the checkpoint, by default the newest readable one.

    Raises:
      ValueError: there is no such checkpoint.
    """

    def read(path: Path) -> Any:
        handler = ocp.PyTreeCheckpointHandler()
        tree = handler.metadata(path / item).tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return handler.restore(path / item, args=ocp.args.PyTreeRestore(restore_args=as_numpy))

    item = "ema" if ema else "params"
    newest = latest_step(workdir)
    if step is None:
        return _newest_good(Path(workdir).absolute(), read, lambda _: None)
    path = Path(workdir).absolute() / "checkpoints" / str(step)
    if not (path / item).is_dir():
        raise ValueError(f"{workdir} has no checkpoint of step {step}: the newest is {newest}.")
    return read(path)


def restore_matching(workdir: str | Path, shapes: Any, shardings: Any) -> dict[str, jax.Array]:
    """Reads the averaged weights of a run that have a path and shape of `shapes`.

    Each device reads its own part: no host holds a sharded weight as a whole.

    Args:
      workdir: of the run.
      shapes: the wanted parameters, as arrays or shapes.
      shardings: of the wanted parameters.

    Returns:
      `jax.tree_util.keystr` of the path -> weight in the dtype of `shapes`.

    Raises:
      ValueError: there is no checkpoint.
    """
    wanted = {
        jax.tree_util.keystr(path): (leaf, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(shardings), strict=True
        )
    }

    def read(path: Path) -> dict[str, jax.Array]:
        handler = ocp.PyTreeCheckpointHandler()
        tree = handler.metadata(path / "ema").tree

        def restore_args(key: Any, stored: Any) -> Any:
            leaf, sharding = wanted.get(jax.tree_util.keystr(key), (None, None))
            if leaf is None or tuple(leaf.shape) != tuple(stored.shape):
                return ocp.PLACEHOLDER
            return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)

        chosen = jax.tree_util.tree_map_with_path(restore_args, tree)
        item = jax.tree.map(lambda arg: arg if arg is ocp.PLACEHOLDER else 0, chosen)
        found = handler.restore(path / "ema", args=ocp.args.PyTreeRestore(item, restore_args=chosen))
        flat = jax.tree_util.tree_leaves_with_path(found)
        return {jax.tree_util.keystr(key): leaf for key, leaf in flat if leaf is not ocp.PLACEHOLDER}

    latest_step(workdir)
    return _newest_good(Path(workdir).absolute(), read, lambda _: None)
