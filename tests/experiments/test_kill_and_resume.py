"""Runs killed with SIGKILL end as one that was left alone: the script's short form."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_runs_end_bit_for_bit_as_one_that_was_left_alone(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.kill_and_resume", "--runs=3", f"--folder={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(": killed")[0] for line in lines[:3]] == ["run 0", "run 1", "run 2"]
    assert lines[-1] == "3 of 3 runs equal the uninterrupted one bit for bit."
    with (tmp_path / "run_1.log").open() as log:
        assert sum("parameters, 1 x cpu" in line for line in log) >= 2  # started, killed, started again
