"""Profiling: shares of time in the log, and the watchdog."""

import time

from muse_jax.training.profiling import Clock, Watchdog
from tests.training.runs import bare_run, rows


def test_a_stuck_step_is_reported_with_the_stacks(tmp_path, capfd):
    clock = Clock()
    dog = Watchdog(0.2, clock, tmp_path / "stacks.txt")
    for step in range(4):  # short steps are not reported
        dog.beat(step)
        time.sleep(0.05)
    assert capfd.readouterr().err == ""
    dog.beat(5)
    with clock.phase("eval"):
        time.sleep(0.5)
    dog.close()
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith(
        "Step 5 has taken 0:00 so far, now in phase 'eval': the stacks of all threads are in "
    )
    assert len(lines) <= 2  # again only when the time has doubled
    assert "test_profiling.py" in (tmp_path / "stacks.txt").read_text()


def test_the_log_has_the_share_of_each_phase(tmp_path):
    bare_run(tmp_path, total_steps=4)
    for row in rows(tmp_path, "train"):
        shares = [row[name] for name in ("input_wait", "step_share", "eval_share", "checkpoint_share")]
        assert all(0 <= share <= 1 for share in shares) and 0 < sum(shares) <= 1
        assert row["corrupt_records"] == 0
