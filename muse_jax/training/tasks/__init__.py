"""Tasks by name."""

from typing import Any

from muse_jax.training.tasks.coglm import CogLMTask, CogViewTask
from muse_jax.training.tasks.coglm_superres import DirectSuperResTask, IterativeSuperResTask
from muse_jax.training.tasks.masked import BaseTask, MaskedTask, SuperResTask
from muse_jax.training.tasks.task import Task
from muse_jax.training.tasks.vqgan import VQGANDecoderTask, VQGANTask

__all__ = [
    "BaseTask",
    "CogLMTask",
    "CogViewTask",
    "DirectSuperResTask",
    "IterativeSuperResTask",
    "MaskedTask",
    "SuperResTask",
    "Task",
    "VQGANDecoderTask",
    "VQGANTask",
    "make_task",
]

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
