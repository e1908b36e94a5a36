"""Evaluation of a trained run with the evaluators that its config names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from muse_jax.checkpointing.run import latest_step, restore_params
from muse_jax.evaluation.evaluators import Context, Evaluator, Report, make_evaluators
from muse_jax.sharding.partitioning import (
    RULES,
    batch_sharding,
    check_batch_size,
    make_mesh,
    put_tree,
    replicated,
    tree_shardings,
)
from muse_jax.training.task import Task


def evaluate_run(
    config: Any, task: Task, workdir: str | Path, step: int | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Evaluates the averaged weights of a run.

    Args:
      config: of the run; without `evaluators`, the task's own scores are computed.
      task: of the run.
      workdir: of the run.
      step: of the checkpoint; the newest by default.

    Returns:
      {"task", "step", "split"} with the report of the evaluator "loss" ("examples", "scores"), and those of
      all other evaluators by name in "evaluators"; and the images of all evaluators.

    Raises:
      ValueError: there is no such checkpoint, or an evaluator cannot run.
    """
    mesh = make_mesh(config.mesh)
    check_batch_size(config.data.batch_size, mesh)
    step = latest_step(workdir) if step is None else step
    context = Context(task, config, mesh, Path(workdir) / "evaluation", {"step": step})
    evaluators = make_evaluators(context)
    params = restore_params(workdir, step=step)
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        shardings = tree_shardings(jax.eval_shape(task.init, jax.random.key(0)), mesh)
        frozen = put_frozen(task, mesh)
        reports, images = run_evaluators(evaluators, put_tree(params, shardings), frozen)
    return {"task": config.task, "step": step, "split": config.data.eval_split, **reports}, images


def run_evaluators(
    evaluators: list[Evaluator], params: Any, frozen: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """JSON with the report of "loss" and, under "evaluators", all others; and the images of all reports."""
    reports = {evaluator.name: evaluator(params, frozen) for evaluator in evaluators}
    images = {
        f"{name}_{key}": sheet for name, report in reports.items() for key, sheet in report.images.items()
    }
    found = {name: report.to_dict() for name, report in reports.items()}
    own = found.pop("loss", {})
    return ({**own, "evaluators": found} if found else own), images


def write_report(writer: Any, step: int, name: str, report: Report) -> str:
    """Writes a report to TensorBoard and metrics.jsonl; returns a line for the console."""
    prefix = "eval" if name == "loss" else f"eval/{name}"
    counts = {key: value for key, value in report.details.items() if key == "examples"}
    writer.scalars(step, {**report.scores, **counts}, prefix=prefix)
    writer.previews(step, {f"{name}_{key}": images for key, images in report.images.items()})
    return f"step {step}  {prefix}  " + "  ".join(
        f"{key} {value:.4f}" for key, value in report.scores.items()
    )


def put_frozen(task: Task, mesh: Any) -> Any:
    """Puts the task's frozen weights on the devices, sharded by their logical axis names."""
    return put_tree(task.frozen(), tree_shardings(task.frozen_shapes(), mesh))


def jit_on_batch(function: Callable[..., Any], params: Any, frozen: Any, mesh: Any) -> Any:
    """Jits a function (params, frozen, batch, key) of a task, whose results are replicated on all devices."""
    frozen = jax.tree.map(lambda leaf: leaf.sharding, frozen)
    shardings = (params, frozen, batch_sharding(mesh), replicated(mesh))
    return jax.jit(function, in_shardings=shardings, out_shardings=replicated(mesh))
