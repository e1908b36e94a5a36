"""Trains a task, or goes on with a run that was stopped.

python -m experiments.train --config=configs/emoji/base.py --workdir=runs/base [--config.optim.lr=3e-4]

Curves: tensorboard --logdir runs. Pictures: WORKDIR/previews.
"""

from absl import flags
from ml_collections import config_flags

from experiments import apps
from muse_jax.training import train, validate_config

CONFIG = config_flags.DEFINE_config_file("config", help_string="A config file; override as --config.x=y.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, curves and previews go.")


def main() -> None:
    """Checks the flags and trains."""
    config = validate_config(CONFIG.value)
    from muse_jax.training.tasks import make_task

    train(config, make_task(config), WORKDIR.value)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    apps.run(main)
