"""Evaluation of a trained run with the evaluators that its config names."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from muse_jax.checkpointing.pretrained import fields_of
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
    step = latest_step(workdir) if step is None else step
    params = functools.partial(restore_params, workdir, step=step)
    reports, images = evaluate_params(config, task, params, Path(workdir) / "evaluation", {"step": step})
    return {"task": config.task, "step": step, "split": config.data.eval_split, **reports}, images


def evaluate_params(
    config: Any, task: Task, read_params: Callable[[], Any], folder: Path, weights: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Runs the evaluators of `config` on parameters of a task.

    Args:
      config: of the task.
      read_params: returns the parameters; called when the evaluators have been checked.
      folder: where evaluators keep their progress.
      weights: identification of the parameters, such as {"step": 100}.

    Returns:
      the reports and images of `run_evaluators`.

    Raises:
      ValueError: an evaluator cannot run, or the parameters are not those of the task.
    """
    mesh = make_mesh(config.mesh)
    check_batch_size(config.data.batch_size, mesh)
    evaluators = make_evaluators(Context(task, config, mesh, folder, weights))
    params = read_params()
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        check_params(params, task, config.task)
        shardings = tree_shardings(jax.eval_shape(task.init, jax.random.key(0)), mesh)
        frozen = put_frozen(task, mesh)
        return run_evaluators(evaluators, put_tree(params, shardings), frozen)


def stage_config(source: Any, stage: str, given: dict[str, Any]) -> dict[str, Any]:
    """The config `given` with the network, sampling parameters and frozen networks of a source's stage.

    Args:
      source: from `open_source`.
      stage: name of one of its networks.
      given: config of a task that trains the stage, as a dict.

    Raises:
      ValueError: the source has no such stage, it is a tokenizer, or the task of the config trains another
        one.
    """
    if stage in source.stages and source.system.stages[stage].is_tokenizer:
        raise ValueError(
            f"--stage={stage} is the tokenizer of {source.name}, from which nothing is sampled: measure it "
            "with --tokenizer=tokenizer."
        )
    if stage not in source.stages or given["task"] not in source.system.stages[stage].tasks:
        raise ValueError(
            f"--stage={stage} is not a network of {source.name} that the task {given['task']!r} of --config "
            f"trains: give one of {', '.join(source.stages)}, and the config of its training."
        )
    others = {"tokenizer", "superres_tokenizer", *source.stages}  # of them the config names what it reads
    frozen: dict[str, Any] = {key: source.name for key in others if key in given}
    model = {**given["model"], **fields_of(source.network(stage).module)}
    sampling, data = source.sampling(stage).to_dict(), {**given["data"], "features": ""}
    return {**given, **frozen, "model": model, "sampling": sampling, "data": data}


def check_params(params: Any, task: Task, name: str) -> None:
    """Checks that parameters have the paths and shapes of those of the task `name`.

    Raises:
      ValueError: they do not.
    """
    init = lambda: nn.meta.unbox(task.init(jax.random.key(0)))  # noqa: E731

    def shapes_of(tree: Any) -> dict[str, Any]:
        return {jax.tree_util.keystr(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(tree)}

    found, expected = shapes_of(params), shapes_of(jax.eval_shape(init))
    if found != expected:
        differing = {name for name, _ in found.items() ^ expected.items()}
        raise ValueError(
            f"{len(differing)} parameters, such as {min(differing)}, are not those of the task {name!r} with "
            "this config: evaluate with the config that they were trained with."
        )


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
