"""Training: configs, tasks, and one loop for all of them."""

from muse_jax.checkpointing.run import Checkpoints, restore_params
from muse_jax.checkpointing.run_config import load_config, save_config
from muse_jax.config_keys import check_keys
from muse_jax.training.config import default_config, validate_config
from muse_jax.training.evaluate import evaluate_params, evaluate_run, stage_config
from muse_jax.training.loop import train
from muse_jax.training.preemption import Stopped
from muse_jax.training.state import TrainState
from muse_jax.training.task import Task

__all__ = [
    "Checkpoints",
    "Stopped",
    "Task",
    "TrainState",
    "check_keys",
    "default_config",
    "evaluate_params",
    "evaluate_run",
    "load_config",
    "restore_params",
    "save_config",
    "stage_config",
    "train",
    "validate_config",
]
