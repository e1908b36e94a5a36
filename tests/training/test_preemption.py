"""Preemption: signals save and stop a run, and a workdir belongs to one run at a time."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from muse_jax.training import Stopped, preemption, train
from muse_jax.training.preemption import hold_workdir
from muse_jax.training.profiling import Watchdog
from tests.training.runs import assert_same, bare_config, bare_run, poisoned, with_batches

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of six steps without interruption, with checkpoints of steps 2, 4 and 6."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, bare_run(workdir)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_current_step_and_the_run_resumes_exactly(signum, whole, tmp_path):
    def kill(position, batch):
        if position == 3 and threading.current_thread().name == "prefetch":
            os.kill(os.getpid(), signum)
        return batch

    config, before = bare_config(), signal.getsignal(signum)
    with pytest.raises(Stopped) as stopped:
        train(config, with_batches(kill)(config), tmp_path)
    assert stopped.value.exit_code == 128 + signum
    assert signal.getsignal(signum) == before
    steps = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    assert 0 < max(steps) < 6
    assert_same(bare_run(tmp_path), whole[1])


def test_a_signal_at_a_non_finite_step_saves_too(monkeypatch, tmp_path):
    changes = {"checkpoint_every": 50, "keep_checkpoints": 1}
    config, beat = bare_config(**changes), Watchdog.beat
    uninterrupted = train(config, poisoned(3)(config), tmp_path / "whole")

    def kill(self, step):
        if step == 4:  # which reads the batch at position 3
            os.kill(os.getpid(), signal.SIGTERM)
        beat(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(Watchdog, "beat", kill)
        with pytest.raises(Stopped):
            train(config, poisoned(3)(config), tmp_path / "killed")
    assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()] == ["4"]
    assert_same(train(config, poisoned(3)(config), tmp_path / "killed"), uninterrupted)


@pytest.mark.slow
def test_the_command_exits_with_143_after_sigterm(tmp_path):
    program = (
        "import sys\nfrom experiments import apps\nfrom muse_jax.training import Stopped, train\n"
        "from tests.training.least_squares import LeastSquares\n"
        "from tests.training.runs import bare_config\n"
        "config = bare_config(total_steps=10**6, checkpoint_every=10**6)\n"
        "import muse_jax.system as tasks\n"
        "tasks.make_task = LeastSquares\n"
        "from experiments import train as command\n"
        "command.validate_config = lambda _: config\n"
        f"sys.argv = ['train', '--config=configs/smoke/vqgan.py', '--workdir={tmp_path}']\n"
        "apps.run(command.main)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in child.stderr:
        if line.startswith("step "):
            break
    child.send_signal(signal.SIGTERM)
    rest = child.stderr.read()
    assert child.wait() == 143
    (step,) = (tmp_path / "checkpoints").iterdir()
    assert f"Stopped at step {step.name}, with a checkpoint of step {step.name}: run the same command" in rest


TWO = """
import sys
from muse_jax.sharding import distributed
from muse_jax.training import Stopped, train
from muse_jax.sharding.partitioning import process_rows
from tests.training.least_squares import LeastSquares, Loader
from tests.training.runs import bare_config

distributed.initialize()

class PartLoader(Loader):
    def __next__(self):
        return {"x": super().__next__()["x"][self.rows]}

class Task(LeastSquares):
    def make_loader(self, split, seed):
        loader = PartLoader(self.config.data.batch_size, seed)
        loader.rows = process_rows(self.config.data.batch_size)
        return loader

config = bare_config(total_steps=10**6, checkpoint_every=10**6, mesh__data=1, mesh__fsdp=2)
try:
    train(config, Task(config), sys.argv[1])
except Stopped as stop:
    sys.exit(stop.exit_code)
"""


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_one_process_resumes_the_run(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    common = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    common |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(tmp_path / "run")],
            cwd=ROOT,
            env={**common, "JAX_PROCESS_ID": str(number)},
            stderr=(tmp_path / f"{number}.log").open("w"),
        )
        for number in range(2)
    ]
    while "\nstep " not in (tmp_path / "0.log").read_text() and all(c.poll() is None for c in children):
        time.sleep(0.2)
    children[1].send_signal(signal.SIGTERM)  # the one that does not log
    logs = lambda: [(tmp_path / f"{number}.log").read_text() for number in range(2)]  # noqa: E731
    assert [child.wait() for child in children] == [143, 143], logs()
    (step,) = (int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert f"Stopped at step {step}, with a checkpoint of step {step}" in logs()[0]
    state = bare_run(tmp_path / "run", total_steps=step + 2)
    assert int(state.step) == step + 2 and int(state.skipped) == 0


def test_the_workdir_of_another_run_is_refused(tmp_path):
    with hold_workdir(tmp_path), pytest.raises(ValueError) as error:
        bare_run(tmp_path)
    assert f"Another run (process {os.getpid()} on " in str(error.value)
    assert f"holds the workdir {tmp_path}: wait for it to end, stop it" in str(error.value)
    with hold_workdir(tmp_path):  # free again
        pass


def test_the_lock_of_a_killed_process_is_released(tmp_path):
    program = (
        "import fcntl, sys, time\nlock = open(sys.argv[1], 'a')\nfcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\ntime.sleep(600)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / ".lock")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="Another run"), hold_workdir(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with hold_workdir(tmp_path):
        pass


def test_every_process_fails_if_process_0_cannot_lock(monkeypatch, tmp_path):
    (tmp_path / ".lock").mkdir()
    calls = []
    monkeypatch.setattr(preemption, "all_processes", lambda here: calls.append(here) or False)
    with pytest.raises(ValueError, match="cannot be written to .*: give a --workdir"), hold_workdir(tmp_path):
        pass
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(ValueError, match="Process 0 cannot hold the workdir"), hold_workdir(tmp_path):
        pass
    assert calls == [False, True]
