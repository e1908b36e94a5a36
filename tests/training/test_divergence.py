"""Divergence: non-finite steps are skipped, and a series of them rolls the run back."""

import shutil

import numpy as np
import pytest

from muse_jax.training import train
from muse_jax.training.divergence import DivergenceDetector
from tests.training.least_squares import LeastSquares, Loader
from tests.training.runs import assert_same, bare_config, poisoned, rows


def test_consecutive_non_finite_steps_roll_back_and_skip_their_data(tmp_path, capsys):
    # Step n trains on batch n - 1. Steps 5 to 7 are non-finite: back to step 4, then on with batch 7.
    changes = {"total_steps": 8, "log_every": 1, "optim__rollback_after": 3}
    config = bare_config(**changes)
    state = train(config, poisoned(4, 5, 6)(config), tmp_path / "bad")
    assert (
        "step 7: 3 consecutive non-finite steps; rolled back to the checkpoint of step 4"
        in capsys.readouterr().err
    )
    assert int(state.step) == 8 and int(state.skipped) == 0

    class Without(LeastSquares):
        def make_loader(self, split, seed):
            loader = super().make_loader(split, seed)
            return _Jump(self.config.data.batch_size, seed) if split == self.config.data.split else loader

    assert_same(train(config, Without(config), tmp_path / "good"), state)
    last = rows(tmp_path / "bad", "train")[-1]
    assert last["rollbacks"] == 1 and last["skipped"] == 0 and np.isfinite(last["loss"])


class _Jump(Loader):
    """Without the batches 4, 5 and 6."""

    def __next__(self):
        self.position += 3 * (self.position == 4)
        return super().__next__()


def test_a_run_killed_after_a_rollback_repeats_it(tmp_path):
    changes = {"total_steps": 8, "optim__rollback_after": 2, "checkpoint_every": 4}
    config = bare_config(**changes)
    state = train(config, poisoned(4, 5)(config), tmp_path / "whole")
    # Killed between the rollback (at step 6, to 4) and the next checkpoint: the disk is as it was at step 4.
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "8")
    assert_same(train(config, poisoned(4, 5)(config), tmp_path / "killed"), state)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"optim__max_rollbacks": 2},
            "4 consecutive steps up to step 6, and the run has rolled back 2 times already",
        ),
        ({"checkpoint_every": 6}, "up to step 4, before the first checkpoint"),
        (
            {"optim__skip_nonfinite": False},
            "2 consecutive steps up to step 4, and the run has rolled back 3 times",
        ),
    ],
)
def test_a_run_that_stays_non_finite_ends_with_an_error(changes, message, tmp_path):
    config = bare_config(**{"optim__rollback_after": 4, **changes})
    first = 2 if "checkpoint_every" not in changes else 0
    with pytest.raises(ValueError) as error:
        train(config, poisoned(*range(first, 100))(config), tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_single_non_finite_steps_are_skipped_counted_and_left_out_of_the_means(tmp_path):
    config = bare_config(log_every=3)
    state = train(config, poisoned(1)(config), tmp_path)
    assert int(state.skipped) == 1
    logged = rows(tmp_path, "train")
    assert [row["skipped"] for row in logged] == [1, 1]
    assert all(np.isfinite(row["loss"]) for row in logged)


def test_a_finite_step_restarts_the_count():
    detector = DivergenceDetector(2)
    good, bad = ({"loss": value, "grad_norm": 1.0, "skipped": 0} for value in (1.0, np.inf))
    detector.record([bad, good, bad])
    assert detector.consecutive == 1 and not detector.diverged
    assert detector.means()["loss"] == 1.0
    detector.record([bad])
    assert detector.diverged and detector.means()["loss"] == np.inf
    disabled = DivergenceDetector(0)
    disabled.record([bad] * 5)
    assert not disabled.diverged
