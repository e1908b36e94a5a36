"""Training: tasks, one loop for all of them, and what it needs."""

from muse_jax.training.checkpoints import Checkpoints, restore_params
from muse_jax.training.config import check_keys, default_config, load_config, validate_config
from muse_jax.training.evaluate import evaluate as evaluate_run
from muse_jax.training.loop import train
from muse_jax.training.state import Task, TrainState
from muse_jax.training.survival import Stopped

__all__ = [
    "Checkpoints",
    "Stopped",
    "Task",
    "TrainState",
    "check_keys",
    "default_config",
    "evaluate_run",
    "load_config",
    "restore_params",
    "train",
    "validate_config",
]
