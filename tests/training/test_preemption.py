"""What a run lives through, on a real, tiny task."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from muse_jax.training import Stopped, preemption, restore_params, train
from muse_jax.training.preemption import FiniteWatch, hold_workdir
from muse_jax.training.prefetch import Prefetch
from muse_jax.training.profiling import Clock, Watchdog
from tests.training.least_squares import LeastSquares, Loader
from tests.training.least_squares import make_config as make_any_config
from tests.training.test_loop import assert_same, rows

ROOT = Path(__file__).parents[2]


def make_config(**changes):
    """Six steps and three checkpoints, with neither scores nor pictures."""
    return make_any_config(**{"eval_every": 0, "preview_every": 0, "keep_checkpoints": 3, **changes})


def run(workdir, **changes):
    config = make_config(**changes)
    return train(config, LeastSquares(config), workdir)


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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of six steps without a break, with checkpoints of steps 2, 4 and 6."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(workdir)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_under_way_and_the_run_goes_on_exactly(signum, whole, tmp_path):
    def kill(position, batch):
        if position == 3 and threading.current_thread().name == "prefetch":
            os.kill(os.getpid(), signum)
        return batch

    config, before = make_config(), signal.getsignal(signum)
    with pytest.raises(Stopped) as stopped:
        train(config, with_batches(kill)(config), tmp_path)
    assert stopped.value.exit_code == 128 + signum
    assert signal.getsignal(signum) == before
    steps = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    assert 0 < max(steps) < 6
    assert_same(run(tmp_path), whole[1])


def test_a_signal_at_a_step_whose_gradient_is_not_finite_saves_too(monkeypatch, tmp_path):
    changes = {"checkpoint_every": 50, "keep_checkpoints": 1}
    config, beat = make_config(**changes), Watchdog.beat
    uninterrupted = train(config, poisoned(3)(config), tmp_path / "whole")

    def kill(self, step):
        if step == 4:  # which reads the batch at position 3
            os.kill(os.getpid(), signal.SIGTERM)
        beat(self, step)

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(Watchdog, "beat", kill)
        train(config, poisoned(3)(config), tmp_path / "killed")
    assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()] == ["4"]
    assert_same(train(config, poisoned(3)(config), tmp_path / "killed"), uninterrupted)


@pytest.mark.slow
def test_the_command_exits_with_143_after_sigterm(tmp_path):
    program = (
        "import sys\nfrom experiments import apps\nfrom muse_jax.training import Stopped, train\n"
        "from tests.training.least_squares import LeastSquares\n"
        "from tests.training.test_preemption import make_config\n"
        "config = make_config(total_steps=10**6, checkpoint_every=10**6)\n"
        "import muse_jax.systems.registry as tasks\n"
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
from muse_jax.training import Stopped, distributed, train
from muse_jax.sharding.partitioning import process_rows
from tests.training.least_squares import LeastSquares, Loader
from tests.training.test_preemption import make_config

distributed.initialize()

class PartLoader(Loader):
    def __next__(self):
        return {"x": super().__next__()["x"][self.rows]}

class Task(LeastSquares):
    def make_loader(self, split, seed):
        loader = PartLoader(self.config.data.batch_size, seed)
        loader.rows = process_rows(self.config.data.batch_size)
        return loader

config = make_config(total_steps=10**6, checkpoint_every=10**6, mesh__data=1, mesh__fsdp=2)
try:
    train(config, Task(config), sys.argv[1])
except Stopped as stop:
    sys.exit(stop.exit_code)
"""


@pytest.mark.slow
def test_processes_stop_together_when_one_is_told_to_and_one_process_goes_on_from_there(tmp_path):
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
    said = lambda: [(tmp_path / f"{number}.log").read_text() for number in range(2)]  # noqa: E731
    assert [child.wait() for child in children] == [143, 143], said()
    (step,) = (int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert f"Stopped at step {step}, with a checkpoint of step {step}" in said()[0]
    state = run(tmp_path / "run", total_steps=step + 2)
    assert int(state.step) == step + 2 and int(state.skipped) == 0


def damage(path):
    """Cuts the array data of a checkpoint's parameters in half."""
    for file in (path / "params" / "d").iterdir():
        os.truncate(file, file.stat().st_size // 2)


def test_a_damaged_checkpoint_is_passed_over_for_the_last_good_one(whole, tmp_path, caplog):
    shutil.copytree(whole[0], tmp_path / "run")
    workdir = tmp_path / "run"
    damage(workdir / "checkpoints" / "6")
    (workdir / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir()  # half written
    assert_same(restore_params(workdir, ema=False), restore_params(workdir, ema=False, step=4))
    assert_same(run(workdir), whole[1])  # done again from step 4
    said = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(said) == 2 and all(
        message.startswith("The checkpoint of step 6 is damaged, passed over for 4: ") and "\n" not in message
        for message in said
    )
    assert [path.name for path in (workdir / "damaged").iterdir()] == ["6"]
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "4", "6"]
    for step in (2, 4, 6):
        damage(workdir / "checkpoints" / str(step))
    with pytest.raises(ValueError, match=r"None of the checkpoints of .* \(steps 6, 4, 2\) can be read: "):
        run(workdir)
    assert len(list((workdir / "checkpoints").iterdir())) == 3  # all that is left stays where it is


def test_a_config_for_another_checkpoint_is_refused_and_nothing_is_set_aside(whole):
    with pytest.raises(ValueError) as error:
        run(whole[0], total_steps=8, optim__grad_clip=0.0)
    assert (
        "is of another config, for its rest/opt_state/0/count is absent and this config's of shape ()"
        in str(error.value)
    )
    assert not (whole[0] / "damaged").exists()


def test_after_steps_that_are_not_finite_the_run_goes_back_and_on_past_the_data(tmp_path, capsys):
    # Batches are drawn at steps 1, 2, 3 ...; those of steps 5 to 7 are bad: back to step 4, on with batch 8.
    changes = {"total_steps": 8, "log_every": 1, "optim__rollback_after": 3}
    config = make_config(**changes)
    state = train(config, poisoned(4, 5, 6)(config), tmp_path / "bad")
    assert (
        "step 7: 3 steps in a row were not finite; back to the checkpoint of step 4"
        in capsys.readouterr().err
    )
    assert int(state.step) == 8 and int(state.skipped) == 0
    left_out = with_batches(lambda at, batch: batch)

    class Without(left_out):
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


def test_a_run_killed_after_it_went_back_goes_back_again_and_ends_the_same(tmp_path):
    changes = {"total_steps": 8, "optim__rollback_after": 2, "checkpoint_every": 4}
    config = make_config(**changes)
    state = train(config, poisoned(4, 5)(config), tmp_path / "whole")
    # Killed between going back (at step 6, to 4) and the next checkpoint: the disk is as it was at step 4.
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "8")
    assert_same(train(config, poisoned(4, 5)(config), tmp_path / "killed"), state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optim__max_rollbacks": 2},
            "4 steps in a row up to step 6, and the run has gone back 2 times already",
        ),
        ({"checkpoint_every": 6}, "up to step 4, before there was a checkpoint to go back to"),
        (
            {"optim__skip_nonfinite": False},
            "2 steps in a row up to step 4, and the run has gone back 3 times",
        ),
    ],
)
def test_a_run_that_stays_not_finite_ends_in_one_sentence(changes, message, tmp_path):
    config = make_config(**{"optim__rollback_after": 4, **changes})
    first = 2 if "checkpoint_every" not in changes else 0
    with pytest.raises(ValueError) as error:
        train(config, poisoned(*range(first, 100))(config), tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_few_such_steps_are_skipped_counted_and_left_out_of_the_means(tmp_path):
    config = make_config(log_every=3)
    state = train(config, poisoned(1)(config), tmp_path)
    assert int(state.skipped) == 1
    logged = rows(tmp_path, "train")
    assert [row["skipped"] for row in logged] == [1, 1]
    assert all(np.isfinite(row["loss"]) for row in logged)


def test_the_count_of_steps_that_are_not_finite_starts_again_at_a_good_one():
    watch = FiniteWatch(2)
    good, bad = ({"loss": value, "grad_norm": 1.0, "skipped": 0} for value in (1.0, np.inf))
    watch.see([bad, good, bad])
    assert watch.in_a_row == 1 and not watch.spoilt
    assert watch.means()["loss"] == 1.0
    watch.see([bad])
    assert watch.spoilt and watch.means()["loss"] == np.inf
    never = FiniteWatch(0)
    never.see([bad] * 5)
    assert not never.spoilt


def test_a_workdir_that_another_run_holds_is_refused(tmp_path):
    with hold_workdir(tmp_path), pytest.raises(ValueError) as error:
        run(tmp_path)
    assert f"Another run (process {os.getpid()} on " in str(error.value)
    assert f"holds the workdir {tmp_path}: wait for it to end, stop it" in str(error.value)
    with hold_workdir(tmp_path):  # free again
        pass


def test_a_killed_process_holds_no_workdir(tmp_path):
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


def test_a_lock_that_process_0_cannot_open_ends_every_process(monkeypatch, tmp_path):
    (tmp_path / ".lock").mkdir()
    asked = []
    monkeypatch.setattr(preemption, "agreed", lambda here: asked.append(here) or False)
    with pytest.raises(ValueError, match="cannot be written to .*: give a --workdir"), hold_workdir(tmp_path):
        pass
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(ValueError, match="Process 0 cannot hold the workdir"), hold_workdir(tmp_path):
        pass
    assert asked == [False, True]


def test_a_stuck_step_is_reported_with_the_stacks(tmp_path, capfd):
    clock = Clock()
    dog = Watchdog(0.2, clock, tmp_path / "stacks.txt")
    for step in range(4):  # steps that go on are not
        dog.beat(step)
        time.sleep(0.05)
    assert capfd.readouterr().err == ""
    dog.beat(5)
    with clock.part("eval"):
        time.sleep(0.5)
    dog.close()
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith(
        "Step 5 has taken 0:00 so far, now in 'eval': the stacks of its threads are in "
    )
    assert len(lines) <= 2  # again only when the time has doubled
    assert "test_preemption.py" in (tmp_path / "stacks.txt").read_text()


def test_the_position_of_the_data_is_that_of_the_batches_given_out():
    from muse_jax.sharding.partitioning import make_mesh

    loader = Loader(8, 0)
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    batches = Prefetch(loader, mesh)
    assert batches.get_state()["position"] == 0
    drawn = [next(batches) for _ in range(3)]
    while loader.position < 5:  # it draws two ahead
        time.sleep(0.01)
    assert batches.get_state()["position"] == 3
    batches.close()
    other = Loader(8, 0)
    for batch in drawn:
        np.testing.assert_array_equal(batch["x"], next(other)["x"])


def test_the_log_says_where_time_went(tmp_path):
    run(tmp_path, total_steps=4)
    for row in rows(tmp_path, "train"):
        shares = [row[name] for name in ("input_wait", "step_share", "eval_share", "checkpoint_share")]
        assert all(0 <= share <= 1 for share in shares) and 0 < sum(shares) <= 1
        assert row["corrupt_records"] == 0


def test_corrupt_records_are_counted_in_the_log(tmp_path):
    class Skipping(LeastSquares):
        def make_loader(self, split, seed):
            loader = super().make_loader(split, seed)
            loader.skipped = 3
            return loader

    config = make_config(total_steps=2)
    train(config, Skipping(config), tmp_path)
    assert rows(tmp_path, "train")[-1]["corrupt_records"] == 3


def test_half_a_line_in_the_metrics_is_dropped(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "ki')
    run(tmp_path / "run", total_steps=8)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8]
