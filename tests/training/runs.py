"""Short runs of the least-squares task, what they wrote, and tasks with altered batches."""

import json
from pathlib import Path

import jax
import numpy as np

from muse_jax.training import train
from tests.training.least_squares import LeastSquares, make_config


def run(workdir, config=None, **changes):
    config = make_config(**changes) if config is None else config
    return train(config, LeastSquares(config), workdir)


def bare_config(**changes):
    """Six steps and three checkpoints, without evaluation and previews."""
    return make_config(**{"eval_every": 0, "preview_every": 0, "keep_checkpoints": 3, **changes})


def bare_run(workdir, **changes):
    return run(workdir, bare_config(**changes))


def rows(workdir, kind):
    """The rows of metrics.jsonl of a kind, "train" or "eval"."""
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["kind"] == kind]


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(left), jax.device_get(right))


def with_batches(change):
    """The task with `change(position, batch)` in place of each training batch."""

    class Changed(LeastSquares):
        def make_loader(self, split, seed):
            loader = super().make_loader(split, seed)
            if split != self.config.data.split:
                return loader
            draw = type(loader).__next__

            class Changing(type(loader)):
                def __next__(self):
                    position = self.position
                    return change(position, draw(self))

            loader.__class__ = Changing
            return loader

    return Changed


def poisoned(*positions):
    """The task with NaN in the batches at `positions`."""
    return with_batches(lambda at, batch: {"x": batch["x"] * np.float32(np.nan if at in positions else 1)})
