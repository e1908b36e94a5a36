"""Evaluators: measures of a model that a config names.

    config.evaluators = {
        "loss": {"every": 500},
        "fid": {"reference": "coco_val.npz", "num_samples": 30_000, "every": 0},
        "mine": {"type": "my_package.my_module.MyEvaluator", "threshold": 0.5},
    }

The training loop and `experiments.evaluate` run the same evaluators. Keys of each section:
  type: a name in `TYPES`, or the dotted path of a class; default: the section's name.
  every: steps between two runs in training, 0 for one run at the end; default: `config.eval_every`.
All other keys are the class's own, listed with their defaults in its `defaults`.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jax.sharding import Mesh

from muse_jax.config_keys import complete, nearest

TYPES: dict[str, str] = {
    "loss": "muse_jax.evaluation.loss.Loss",
    "reconstruction": "muse_jax.evaluation.reconstruction.Reconstruction",
    "retrieval": "muse_jax.evaluation.retrieval.Retrieval",
    "iconeval": "muse_jax.evaluation.iconeval.IconEval",
    "fvd": "muse_jax.evaluation.clip_distance.FVD",
    "fvd_efficientnet_lite0": "muse_jax.evaluation.clip_distance.ClipDistance",
    "motioneval": "muse_jax.evaluation.motioneval.MotionEval",
    "prediction": "muse_jax.evaluation.prediction.Prediction",
    "clip_score": "muse_jax.evaluation.clip_score.CLIPScore",
    **dict.fromkeys(
        ("generation", "fid", "sfid", "kid", "mind", "prdc", "inception_score", "cmmd"),
        "muse_jax.evaluation.generation.Generation",
    ),
}


@dataclasses.dataclass(frozen=True)
class Report:
    """Result of an evaluator.

    Attributes:
      scores: scalars by name.
      details: further values for the JSON file: split, number of examples, tables.
      images: uint8 images (n, height, width, 3) by name.
    """

    scores: dict[str, float]
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    images: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without images."""
        return {**self.details, "scores": self.scores}


@dataclasses.dataclass(frozen=True)
class Context:
    """The model that an evaluator measures, apart from its weights.

    Attributes:
      task: its task: `evaluate`, `sample`, `eval_loader` and so on.
      config: complete config of the run.
      mesh: devices that hold the weights.
      folder: where an evaluator may keep files, such as its progress; None keeps nothing.
      weights: identification of the weights, such as a step or a name.
    """

    task: Any
    config: Any
    mesh: Mesh
    folder: Path | None = None
    weights: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Evaluator:
    """Base of the evaluators.

    A subclass lists the keys of its config section in `defaults`, checks their values in `__init__`, before
    any device work, and measures in `__call__`, which may be called for several weights.

    Raises:
      ValueError: a key is unknown, or a value has another type than its default.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, name: str, options: Mapping[str, Any], context: Context):
        self.name, self.context = name, context
        self.options = complete(f"evaluators.{name}", options, self.defaults)
        self.every: int = context.config.eval_every

    def __call__(self, params: Any, frozen: Any) -> Report:
        """Measures a model.

        Args:
          params: weights of the task, on the mesh.
          frozen: frozen weights of the task, on the mesh.
        """
        raise NotImplementedError

    def refuse(self, key: str, expected: str) -> ValueError:
        """The error for a value of `key` that is not allowed."""
        return ValueError(
            f"Config key 'evaluators.{self.name}.{key}' is {self.options[key]!r}, but it must be {expected}."
        )


def make_evaluators(context: Context) -> list[Evaluator]:
    """Makes the evaluators of `context.config.evaluators`; by default that of the task's own scores.

    Raises:
      ValueError: a section is wrong.
    """
    sections = context.config.evaluators.to_dict() or {"loss": {}}
    return [make_evaluator(name, options, context) for name, options in sections.items()]


def make_evaluator(name: str, options: Any, context: Context) -> Evaluator:
    """Makes an evaluator from its section of the config.

    Raises:
      ValueError: the section is wrong.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f"Config key 'evaluators.{name}' is {options!r}, but it must be a section of keys.")
    own = {key: value for key, value in options.items() if key not in ("type", "every")}
    evaluator: Evaluator = _find(name, options.get("type", name))(name, own, context)
    every = options.get("every", context.config.eval_every)
    if not isinstance(every, int) or isinstance(every, bool) or every < 0:
        raise ValueError(
            f"Config key 'evaluators.{name}.every' is {every!r}, but it must be at least 0 steps."
        )
    evaluator.every = every
    return evaluator


def _find(name: str, kind: Any) -> Any:
    path = TYPES.get(kind, kind) if isinstance(kind, str) else ""
    module, _, attribute = path.rpartition(".")
    if not module:
        near = nearest(kind, TYPES)
        hint = f"use {near!r}" if near else f"use one of {', '.join(TYPES)}"
        raise ValueError(
            f"Config key 'evaluators.{name}' has no evaluator type {kind!r}: {hint}, or give the dotted path "
            "of a class."
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"The evaluator {path!r} of 'evaluators.{name}' is not found: {error}.") from error
