"""Trains a task, or resumes a run that was stopped.

python -m experiments.train --config=configs/emoji/base.py --workdir=runs/base [--config.optim.lr=3e-4]

Curves: tensorboard --logdir runs. Images: WORKDIR/previews.

Exit status: 0 at the end; 1 after an error, which is printed as one sentence; 143 after SIGTERM and 130 after
Ctrl-C (128 plus the signal's number, so that a scheduler can restart the job). In the last two cases the
current step has been saved, and the same command resumes from it.
"""

from absl import flags

from experiments import apps
from muse_jax.sharding import distributed
from muse_jax.training import Stopped, train, validate_config

WORKDIR = flags.DEFINE_string("workdir", "", "Directory for checkpoints, curves and previews.")


def main() -> None:
    """Checks the flags and trains."""
    if not flags.FLAGS.config or not WORKDIR.value:
        raise ValueError(
            "Give --config=FILE and --workdir=DIR, for instance configs/emoji/base.py and runs/base."
        )
    config = validate_config(flags.FLAGS.config)
    distributed.initialize()
    from muse_jax.system import make_task

    try:
        train(config, make_task(config), WORKDIR.value)
    except Stopped as stop:
        raise SystemExit(stop.exit_code) from None


if __name__ == "__main__":
    apps.run(main)
