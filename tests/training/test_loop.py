"""The loop on a real, tiny task: it learns, resumes bit for bit, and explains its errors."""

import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from muse_jax.training import evaluate_run, load_config, restore_params, train
from tests.training.least_squares import LeastSquares, make_config
from tests.training.runs import assert_same, rows, run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of six steps without interruption."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(workdir)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(whole, tmp_path):
    class Crash(Exception):
        pass

    class Crashing(LeastSquares):
        def make_loader(self, split, seed):
            loader = super().make_loader(split, seed)
            if split == self.config.data.split:
                draw = type(loader).__next__

                class Broken(type(loader)):
                    def __next__(self):
                        if self.position == 3:  # after the checkpoint of step 2
                            raise Crash
                        return draw(self)

                loader.__class__ = Broken
            return loader

    config = make_config()
    with pytest.raises(Crash):
        train(config, Crashing(config), tmp_path)
    state = run(tmp_path)
    assert_same(state, whole[1])
    seen = [row["loss"] for row in rows(tmp_path, "train")]
    assert (
        seen[-2:] == [row["loss"] for row in rows(whole[0], "train")][-2:]
    )  # the same batches in the same order


def test_a_run_does_not_resume_with_another_tokenizer(tmp_path):
    class WithTokenizer(LeastSquares):
        content = "first"

        def tokenizer_hashes(self):
            return {"init_from": self.content}

    config = make_config(total_steps=1, eval_every=0, preview_every=0)
    for _ in range(2):
        train(config, WithTokenizer(config), tmp_path)
    WithTokenizer.content = "second"
    with pytest.raises(ValueError, match="holds a run whose config.init_from had another content than"):
        train(config, WithTokenizer(config), tmp_path)


def test_the_files_of_a_run(whole):
    workdir, state = whole
    assert int(state.step) == 6 and int(state.skipped) == 0
    assert sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()) == [
        4,
        6,
    ]
    assert load_config(workdir).optim.lr == 1e-2
    assert [row["step"] for row in rows(workdir, "train")] == [2, 4, 6]
    assert [row["step"] for row in rows(workdir, "eval")] == [3, 6]
    assert rows(workdir, "train")[0]["examples_per_second"] > 0
    assert list((workdir / "tensorboard").iterdir())
    assert [path.name for path in (workdir / "previews").iterdir()] == ["outputs_0000006.png"]
    assert_same(restore_params(workdir), state.ema)
    assert_same(restore_params(workdir, ema=False), state.params)
    with pytest.raises(ValueError, match="no checkpoint of step 5: the newest is 6"):
        restore_params(workdir, step=5)
    assert run(workdir).step == 6  # nothing to do


def test_it_learns_and_scores_its_averaged_weights(tmp_path):
    changes = {
        "total_steps": 300,
        "log_every": 100,
        "checkpoint_every": 300,
        "eval_every": 100,
        "data__batch_size": 32,
    }
    config = make_config(**changes, optim__ema=0.9, optim__lr=0.03)
    run(tmp_path, config)
    losses = [row["loss"] for row in rows(tmp_path, "train")]
    assert losses[-1] < losses[0] / 4
    result, _ = evaluate_run(config, LeastSquares(config), tmp_path)
    assert result["examples"] == rows(tmp_path, "eval")[-1]["examples"] == 3 * 32
    assert result["step"] == 300 and result["split"] == config.data.eval_split
    assert result["scores"]["mse"] == pytest.approx(rows(tmp_path, "eval")[-1]["mse"], rel=1e-5)


def test_a_run_can_start_from_the_weights_of_another(whole, tmp_path):
    state = run(tmp_path, total_steps=1, optim__lr=0.0, init_from=str(whole[0]))
    assert_same(state.params, whole[1].ema)
    with pytest.raises(ValueError, match="which is not a run or a checkpoint"):
        run(tmp_path / "other", init_from=str(tmp_path / "nothing"))


def test_a_non_finite_step_changes_only_the_count(tmp_path):
    class Exploding(LeastSquares):
        def loss(self, params, frozen, batch, key, step):
            loss, scalars = super().loss(params, frozen, batch, key, step)
            return loss * jax.numpy.where(step == 1, np.inf, 1.0), scalars

    config = make_config(total_steps=2, checkpoint_every=1, keep_checkpoints=3)
    state = train(config, Exploding(config), tmp_path)
    assert int(state.step) == 2 and int(state.skipped) == 1
    assert_same(restore_params(tmp_path, ema=False, step=2), restore_params(tmp_path, ema=False, step=1))


def test_another_model_is_refused(whole):
    with pytest.raises(ValueError, match="model.width"):
        run(whole[0], model={"width": 3})


def test_an_unwritable_workdir_is_refused(tmp_path):
    # A file in place of a directory, and a file system without files: even root cannot write there.
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/no_such_run/here")):
        with pytest.raises(
            ValueError, match=r"^The workdir .* cannot be written to \(.*\): give a --workdir"
        ):
            run(workdir)


def test_the_end_of_the_data_is_an_error(tmp_path):
    config = make_config()
    with pytest.raises(ValueError, match="The split 'train' ended while training"):
        train(config, LeastSquares(config, train_limit=2), tmp_path)


def test_a_full_disk_leaves_the_last_checkpoint_intact(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        run(disk / "run", total_steps=2, preview_every=0)
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(2**23))
        with pytest.raises(ValueError) as error:
            run(disk / "run", total_steps=4, preview_every=0)
        assert "\n" not in str(error.value)
        filler.unlink()
        assert restore_params(disk / "run", step=2)
        filler_size = (
            os.statvfs(disk).f_bavail * 4096 - 20 * 4096
        )  # enough for the metrics, not for a checkpoint
        filler.write_bytes(bytes(filler_size))
        with pytest.raises(ValueError) as error:
            run(disk / "run", total_steps=4, preview_every=0)
        assert "No space is left to write" in str(error.value)
        assert "the checkpoint of step 2 is intact" in str(error.value)
        filler.unlink()
        resumed = run(disk / "run", total_steps=4, preview_every=0)
        assert int(resumed.step) == 4
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
