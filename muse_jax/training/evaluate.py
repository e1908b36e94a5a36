"""Means of a task's scores over a split, while it trains and afterwards."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn

from muse_jax.training.checkpoints import latest_step, restore_params
from muse_jax.training.partitioning import (
    RULES,
    batch_sharding,
    check_batch_size,
    fits,
    make_mesh,
    put_batch,
    put_tree,
    replicated,
    tree_shardings,
)
from muse_jax.training.state import Task


def evaluate(
    config: Any, task: Task, workdir: str | Path, split: str = "", step: int | None = None
) -> dict[str, Any]:
    """Scores the averaged weights of a run over a split.

    Args:
      config: of the run; `config.eval_batches` bounds how much of the split is read (0: all of it).
      task: of the run.
      workdir: of the run.
      split: `config.data.eval_split` by default.
      step: which checkpoint, the newest by default.

    Returns:
      {"task", "step", "split", "scores": {name: mean}}.

    Raises:
      ValueError: one sentence, if there is no such checkpoint or the split gives no batch.
    """
    step = latest_step(workdir) if step is None else step
    params = restore_params(workdir, step=step)
    split = split or config.data.eval_split
    if split == config.data.split and not config.eval_batches:
        raise ValueError(f"The split {split!r} repeats without end: say how many batches of it to score.")
    mesh = make_mesh(config.mesh)
    check_batch_size(config.data.batch_size, mesh)
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        shardings = tree_shardings(jax.eval_shape(task.init, jax.random.key(0)), mesh)
        frozen = put_frozen(task, mesh)
        score = jit_on_batch(task.evaluate, shardings, frozen, mesh)
        batches = eval_batches(task, config, mesh, split)
        scores = mean_scores(score, task.summarize, put_tree(params, shardings), frozen, batches, config.seed)
    return {"task": config.task, "step": step, "split": split, "scores": scores}


def write_scores(path: str | Path, result: dict[str, Any]) -> None:
    """Writes what `evaluate` gave as one JSON."""
    Path(path).write_text(json.dumps(result, indent=1) + "\n")


def put_frozen(task: Task, mesh: Any) -> Any:
    """The task's frozen weights on the devices, laid out by their axis names where they have some."""
    return put_tree(task.frozen(), tree_shardings(task.frozen_shapes(), mesh))


def jit_on_batch(function: Callable[..., Any], params: Any, frozen: Any, mesh: Any) -> Any:
    """Jits a task's (params, frozen, batch, key) -> results that every device ends up with."""
    frozen = jax.tree.map(lambda leaf: leaf.sharding, frozen)
    shardings = (params, frozen, batch_sharding(mesh), replicated(mesh))
    return jax.jit(function, in_shardings=shardings, out_shardings=replicated(mesh))


def eval_batches(task: Task, config: Any, mesh: Any, split: str = "") -> Iterable[Any]:
    """The first `config.eval_batches` batches of the split (0: all), the same at each call.

    A last batch that the mesh cannot split evenly is left out.
    """
    loader = task.make_loader(split or config.data.eval_split, 0)
    try:
        for index, batch in enumerate(loader):
            if config.eval_batches and index == config.eval_batches:
                return
            if fits(batch, mesh):
                yield put_batch(batch, mesh)
    finally:
        close(loader)


def mean_scores(
    evaluate: Callable[..., Any],
    summarize: Callable[[dict[str, Any]], dict[str, Any]],
    params: Any,
    frozen: Any,
    batches: Iterable[Any],
    seed: int,
) -> dict[str, float]:
    """The summary of means over the images of `batches`, batch i with the key fold_in(key(seed), i).

    Raises:
      ValueError: if there is no batch.
    """
    totals: dict[str, Any] = {}
    images = 0
    for index, batch in enumerate(batches):
        key = jax.random.fold_in(jax.random.key(seed), index)
        size = len(next(iter(batch.values())))
        images += size
        for name, value in jax.device_get(evaluate(params, frozen, batch, key)).items():
            totals[name] = totals.get(name, 0.0) + size * value
    if not images:
        raise ValueError(
            "The split to evaluate gave no batch: take another or a smaller config.data.batch_size."
        )
    means = summarize({name: total / images for name, total in totals.items()})
    return {name: float(mean) for name, mean in means.items()}


def close(loader: Any) -> None:
    """Ends a loader's threads, if it has any to end."""
    if hasattr(loader, "close"):
        loader.close()
