"""Runs with a time limit finish their learning-rate schedule in time."""

import itertools
import time
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax

from muse_jax.training import deadline as deadline_module
from muse_jax.training.deadline import Deadline, skip_to
from muse_jax.training.state import TrainState
from tests.training.runs import rows, run


def test_without_a_limit_no_step_is_skipped():
    assert Deadline(0.0, 100).due(10, 10) == 10


def test_the_step_due_is_proportional_to_the_time(monkeypatch):
    now = [50.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    deadline = Deadline(16.0, 1030)
    assert deadline.due(20, 10) == 20
    now[0] = 56.0  # the first ten steps included compilation
    assert deadline.due(30, 10) == 30
    now[0] = 58.57
    assert deadline.due(40, 10) == 280  # 30 + 257, down to a multiple of 10
    assert deadline.due(500, 10) == 500  # a fast run skips nothing
    now[0] = 70.0
    assert deadline.due(500, 10) == 1029


def test_only_step_counts_advance():
    optimizer = optax.chain(
        optax.scale_by_adam(), optax.scale_by_learning_rate(lambda step: 1.0 / (1 + step))
    )
    params = {"w": jnp.ones(3)}
    state = TrainState(jnp.int32(2), params, params, optimizer.init(params), jnp.int32(1))
    moved = skip_to(state, 7)
    assert moved.step == 7 and moved.skipped == 1
    assert moved.opt_state[0].count == 5 and moved.opt_state[1].count == 5
    np.testing.assert_array_equal(moved.opt_state[0].mu["w"], state.opt_state[0].mu["w"])
    updates, _ = optimizer.update({"w": jnp.ones(3)}, moved.opt_state, params)
    assert float(jnp.abs(updates["w"]).max()) < 0.2


def test_a_limited_run_ends_at_its_last_step_and_learning_rate(tmp_path, monkeypatch):
    # A clock that advances by a second each time it is read: at every second step.
    clock = SimpleNamespace(monotonic=itertools.count().__next__)
    monkeypatch.setattr(deadline_module, "time", clock)
    state = run(
        tmp_path, total_steps=10**7, time_limit=20.0, log_every=2, checkpoint_every=10**6, eval_every=0
    )
    assert state.step == 10**7
    train = rows(tmp_path, "train")
    assert len(train) == 20 and train[-1]["step"] == 10**7
    assert train[-1]["lr"] < 1e-6 < train[0]["lr"]
    saved = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    assert saved[-1] == 10**7
