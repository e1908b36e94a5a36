"""Checkpoints of a run: atomic, asynchronous, the last few kept, the data's position beside the weights."""

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


class Restored(NamedTuple):
    """What a checkpoint holds: the state, the position of the data, how often the run had gone back."""

    state: Any
    data: Any
    rollbacks: int


class Checkpoints:
    """The checkpoints under workdir/checkpoints, one directory a step, that appears only when whole.

    The position of the data is the number of batches that all processes together have drawn, so that any
    number of them goes on from it.
    """

    def __init__(self, workdir: str | Path, keep: int = 2):
        self._workdir = Path(workdir).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self._workdir / "checkpoints", options=options)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, data_state: Any, rollbacks: int = 0) -> None:
        """Starts writing in the background; an error of the write before this one is raised here."""
        items = {name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
        data = ocp.args.JsonSave({**_encode(data_state), "rollbacks": rollbacks})
        self._manager.save(step, args=ocp.args.Composite(**items, data=data), force=True)

    def wait(self) -> None:
        """Waits until what was started is written; raises as `save` does."""
        self._manager.wait_until_finished()

    def restore(self, shapes: Any, shardings: Any, step: int | None = None) -> Restored:
        """The checkpoint of a step, laid out as `shardings`.

        By default the newest that can be read: a damaged one is moved to workdir/damaged and passed over.

        Raises:
          ValueError: one sentence, if what it holds is of another shape, or none can be read.
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
        return _newest_good(self._workdir, read, self._set_aside)

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            folder = self._workdir / "damaged"
            folder.mkdir(exist_ok=True)
            shutil.rmtree(folder / str(step), ignore_errors=True)
            (self._workdir / "checkpoints" / str(step)).rename(folder / str(step))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("a damaged checkpoint is set aside")
        self._manager.reload()

    def close(self) -> None:
        """Ends the background writer."""
        self._manager.close()


def _items(state: Any) -> dict[str, Any]:
    rest = {"step": state.step, "skipped": state.skipped, "opt_state": state.opt_state}
    return {"params": state.params, "ema": state.ema, "rest": rest}


class _Other(ValueError):
    """A checkpoint that can be read, but is of something else."""


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {"/".join(path): tuple(leaf.shape) for path, leaf in ocp.tree.to_flat_dict(tree).items()}


def _read_item(path: Path, target: Any) -> Any:
    """One item, of `target`'s structure, shapes and layout; no process waits for another in here."""
    handler = ocp.StandardCheckpointHandler()
    if (path / "_METADATA").is_file():
        there, wanted = _shapes(handler.metadata(path).tree), _shapes(target)
        for name in sorted(there.keys() | wanted.keys()):
            if there.get(name) != wanted.get(name):
                raise _Other(
                    f"The checkpoint {path.parent} is of another config, for its {path.name}/{name} is "
                    f"{_in_words(there.get(name))} and this config's {_in_words(wanted.get(name))}: take "
                    "another --workdir or the config of that run."
                )
    return handler.restore(path, args=ocp.args.StandardRestore(target))


def _in_words(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of shape {shape}"


def _newest_good(workdir: Path, read: Callable[[Path], T], set_aside: Callable[[int], None]) -> T:
    """What `read` gives for the newest checkpoint that every process can read; says which were not.

    Those are set aside only when another could be read: where none can, the fault may lie elsewhere.
    """
    passed: dict[int, str] = {}
    for step in reversed(_steps(workdir)):
        found, reason = None, "another process could not read it"
        with _without_echoes():
            try:
                found = read(workdir / "checkpoints" / str(step))
            except _Other:
                raise
            except Exception as error:  # what a damaged file makes of its readers has no common type
                reason = (str(error).splitlines() or [""])[0][:200]
        if not all_processes(found is not None):
            passed[step] = reason
            continue
        for damaged, reason in passed.items():
            logging.warning(
                "The checkpoint of step %d is damaged, passed over for %d: %s", damaged, step, reason
            )
            set_aside(damaged)
        return cast(T, found)
    raise ValueError(
        f"None of the checkpoints of {workdir} (steps {', '.join(map(str, passed))}) can be read: "
        f"{next(iter(passed.values()))}"
    )


@contextlib.contextmanager
def _without_echoes() -> Iterator[None]:
    """Where a read fails, others that it had begun would each be reported as they are thrown away."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        gc.collect()
        sys.unraisablehook = hook


def latest_step(workdir: str | Path) -> int:
    """The step of the newest checkpoint of a run.

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
      step: by default the newest that can be read.

    Raises:
      ValueError: if there is no such checkpoint.
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
    """The averaged weights of a run that `shapes` has under the same path and in the same shape.

    Each device reads its part: no host holds a whole weight that is sharded.

    Args:
      workdir: a run's workdir.
      shapes: the parameters wanted, arrays or their shapes.
      shardings: how each is to be laid out.

    Returns:
      `jax.tree_util.keystr` of the path -> weight in the dtype of `shapes`.

    Raises:
      ValueError: if there is no checkpoint.
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

        def args(key: Any, there: Any) -> Any:
            leaf, sharding = wanted.get(jax.tree_util.keystr(key), (None, None))
            if leaf is None or tuple(leaf.shape) != tuple(there.shape):
                return ocp.PLACEHOLDER
            return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)

        chosen = jax.tree_util.tree_map_with_path(args, tree)
        item = jax.tree.map(lambda arg: arg if arg is ocp.PLACEHOLDER else 0, chosen)
        found = handler.restore(path / "ema", args=ocp.args.PyTreeRestore(item, restore_args=chosen))
        flat = jax.tree_util.tree_leaves_with_path(found)
        return {jax.tree_util.keystr(key): leaf for key, leaf in flat if leaf is not ocp.PLACEHOLDER}

    latest_step(workdir)
    return _newest_good(Path(workdir).absolute(), read, lambda _: None)
