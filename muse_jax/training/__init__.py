"""Training: tasks, the loop that trains them, and its parts."""

import importlib
from typing import Any

_HOMES = {
    "Checkpoints": "muse_jax.checkpointing.run",
    "Stopped": "muse_jax.training.preemption",
    "Task": "muse_jax.training.state",
    "TrainState": "muse_jax.training.state",
    "check_keys": "muse_jax.training.config",
    "default_config": "muse_jax.training.config",
    "evaluate_run": "muse_jax.training.evaluate",
    "load_config": "muse_jax.training.config",
    "restore_params": "muse_jax.checkpointing.run",
    "train": "muse_jax.training.loop",
    "validate_config": "muse_jax.training.config",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    # Lazy, so that a config file or a pipeline does not import the whole trainer.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'muse_jax.training' has no attribute {name!r}")
