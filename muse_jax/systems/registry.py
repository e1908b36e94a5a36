"""Systems by name: their tasks and pipelines."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from muse_jax.checkpointing import pretrained
from muse_jax.systems.cogview2.pipeline import CogView2Pipeline
from muse_jax.systems.cogview2.superres_tasks import DirectSuperResTask, IterativeSuperResTask
from muse_jax.systems.cogview2.tasks import CogLMTask
from muse_jax.systems.muse.pipeline import MusePipeline
from muse_jax.systems.muse.tasks import BaseTask, SuperResTask
from muse_jax.systems.vqgan.tasks import VQGANDecoderTask, VQGANTask
from muse_jax.training.task import Task

PIPELINES: dict[str, Any] = {"muse": MusePipeline, "cogview2": CogView2Pipeline}
"""By the name of their system in a checkpoint's config."""


def load_pipeline(
    name: str | Path, *, mesh: Mesh | None = None, dtype: Any = None
) -> MusePipeline | CogView2Pipeline:
    """The pipeline of a packaged checkpoint or a directory, of the system that its config names.

    Args:
      mesh: the devices to run on, see `Pipeline`; None for one.
      dtype: of the weights and of the computation; None for float32.

    Raises:
      ValueError: one sentence, for a checkpoint that is missing, damaged, or whose weights do not fit.
    """
    system = pretrained.read_config(pretrained.find_checkpoint(name))["system"]
    pipeline: MusePipeline | CogView2Pipeline = PIPELINES[system].from_pretrained(
        name, mesh=mesh, dtype=dtype
    )
    return pipeline


_TASKS = {
    "vqgan": VQGANTask,
    "vqgan_decoder": VQGANDecoderTask,
    "base": BaseTask,
    "superres": SuperResTask,
    "coglm": CogLMTask,
    "direct_superres": DirectSuperResTask,
    "iterative_superres": IterativeSuperResTask,
}


def make_task(config: Any) -> Task:
    """The task that `config.task` names.

    Raises:
        ValueError: there is no such task.
    """
    if config.task not in _TASKS:
        raise ValueError(f"unknown task {config.task!r}: config.task must be one of {', '.join(_TASKS)}.")
    return _TASKS[config.task](config)
