"""Evaluation of a task over a split, during and after training."""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from muse_jax.checkpointing.run import latest_step, restore_params
from muse_jax.sharding.partitioning import (
    RULES,
    batch_sharding,
    check_batch_size,
    make_mesh,
    put_batch,
    put_tree,
    replicated,
    tree_shardings,
)
from muse_jax.training.state import Task


def evaluate_run(
    config: Any, task: Task, workdir: str | Path, split: str = "", step: int | None = None
) -> dict[str, Any]:
    """Evaluates the averaged weights of a run on a split.

    Args:
      config: of the run; `config.eval_batches` limits the number of batches (0: the whole split).
      task: of the run.
      workdir: of the run.
      split: name of the split, by default `config.data.eval_split`.
      step: of the checkpoint, by default the newest.

    Returns:
      {"task", "step", "split", "examples", "scores"}: "examples" is the number of evaluated examples and
      "scores" maps names to values.

    Raises:
      ValueError: there is no such checkpoint, or the split is empty.
    """
    step = latest_step(workdir) if step is None else step
    params = restore_params(workdir, step=step)
    split = split or config.data.eval_split
    mesh = make_mesh(config.mesh)
    check_batch_size(config.data.batch_size, mesh)
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        shardings = tree_shardings(jax.eval_shape(task.init, jax.random.key(0)), mesh)
        frozen = put_frozen(task, mesh)
        evaluate_batch = jit_evaluate(task, shardings, frozen, mesh)
        batches = eval_batches(task, config, mesh, split)
        params = put_tree(params, shardings)
        scores, examples = split_scores(evaluate_batch, task, params, frozen, batches, config.seed)
    return {"task": config.task, "step": step, "split": split, "examples": examples, "scores": scores}


def write_scores(path: str | Path, result: dict[str, Any]) -> None:
    """Writes the result of `evaluate_run` as JSON."""
    Path(path).write_text(json.dumps(result, indent=1) + "\n")


def put_frozen(task: Task, mesh: Any) -> Any:
    """Puts the task's frozen weights on the devices, sharded by their logical axis names."""
    return put_tree(task.frozen(), tree_shardings(task.frozen_shapes(), mesh))


def jit_on_batch(function: Callable[..., Any], params: Any, frozen: Any, mesh: Any) -> Any:
    """Jits a function (params, frozen, batch, key) of a task, whose results are replicated on all devices."""
    frozen = jax.tree.map(lambda leaf: leaf.sharding, frozen)
    shardings = (params, frozen, batch_sharding(mesh), replicated(mesh))
    return jax.jit(function, in_shardings=shardings, out_shardings=replicated(mesh))


def jit_evaluate(task: Task, params: Any, frozen: Any, mesh: Any) -> Callable[..., Any]:
    """Jits `task.evaluate`, summed over the examples of a batch: name -> (sum, weight).

    Each example draws from fold_in(key, index), so that its score depends on neither its batch nor the mesh.
    """

    def evaluate_batch(params: Any, frozen: Any, batch: Mapping[str, Any], key: jax.Array) -> Any:
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(batch["index"])
        example_mask = batch["example_mask"]

        def total(values: jax.Array) -> jax.Array:
            mask = example_mask.reshape(-1, *[1] * (values.ndim - 1))
            return jnp.sum(jnp.where(mask, values, 0).astype(jnp.float32), axis=0)

        sums = jax.tree.map(total, task.evaluate(params, frozen, batch, keys))
        return sums, jnp.sum(example_mask)

    return jit_on_batch(evaluate_batch, params, frozen, mesh)


def eval_batches(task: Task, config: Any, mesh: Any, split: str = "") -> Iterable[Any]:
    """The first `config.eval_batches` batches of the split (0: all), the same at each call."""
    loader = task.eval_loader(split or config.data.eval_split)
    try:
        for batch in itertools.islice(loader, config.eval_batches or None):
            yield put_batch(batch, mesh)
    finally:
        close(loader)


def split_scores(
    evaluate_batch: Callable[..., Any],
    task: Task,
    params: Any,
    frozen: Any,
    batches: Iterable[Any],
    seed: int,
) -> tuple[dict[str, float], int]:
    """The scores over all examples of `batches`, and the number of examples.

    Raises:
      ValueError: there are no batches.
    """
    totals: dict[str, Any] = {}
    examples = 0
    for batch in batches:
        sums, count = jax.device_get(evaluate_batch(params, frozen, batch, jax.random.key(seed)))
        examples += int(count)
        for name, pair in sums.items():
            sum, weight = (np.asarray(part, np.float64) for part in pair)
            total, total_weight = totals.get(name, (0.0, 0.0))
            totals[name] = total + sum, total_weight + weight
    if not examples:
        raise ValueError("The split to evaluate has no readable example: choose another.")
    scores = task.summarize({name: sum / np.maximum(weight, 1) for name, (sum, weight) in totals.items()})
    return {name: float(score) for name, score in scores.items()}, examples


def close(loader: Any) -> None:
    """Closes a loader that has threads to end."""
    if hasattr(loader, "close"):
        loader.close()
