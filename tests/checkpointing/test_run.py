"""Checkpoints of a run: damaged ones are quarantined, incompatible ones refused."""

import os
import shutil

import pytest

from muse_jax.checkpointing.run import is_disk_full
from muse_jax.training import restore_params
from tests.training.runs import assert_same, bare_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of six steps without interruption, with checkpoints of steps 2, 4 and 6."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, bare_run(workdir)


def damage(path):
    """Cuts the array data of a checkpoint's parameters in half."""
    for file in (path / "params" / "d").iterdir():
        os.truncate(file, file.stat().st_size // 2)


def test_a_damaged_checkpoint_is_quarantined_and_an_earlier_one_used(whole, tmp_path, caplog):
    shutil.copytree(whole[0], tmp_path / "run")
    workdir = tmp_path / "run"
    damage(workdir / "checkpoints" / "6")
    (workdir / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir()  # half written
    assert_same(restore_params(workdir, ema=False), restore_params(workdir, ema=False, step=4))
    assert_same(bare_run(workdir), whole[1])  # repeated from step 4
    messages = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(messages) == 2 and all(
        message.startswith("The checkpoint of step 6 is damaged, using step 4 instead: ")
        and "\n" not in message
        for message in messages
    )
    assert [path.name for path in (workdir / "damaged").iterdir()] == ["6"]
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "4", "6"]
    for step in (2, 4, 6):
        damage(workdir / "checkpoints" / str(step))
    with pytest.raises(ValueError, match=r"None of the checkpoints of .* \(steps 6, 4, 2\) can be read: "):
        bare_run(workdir)
    assert len(list((workdir / "checkpoints").iterdir())) == 3  # nothing is quarantined


def test_a_checkpoint_of_another_config_is_refused_and_not_quarantined(whole):
    with pytest.raises(ValueError) as error:
        bare_run(whole[0], total_steps=8, optim__grad_clip=0.0)
    assert (
        "belongs to another config: its rest/opt_state/0/count is absent, this config's is of shape ()"
        in str(error.value)
    )
    assert not (whole[0] / "damaged").exists()


def test_a_full_disk_is_recognised_by_number_or_text():
    failed = RuntimeError("the save failed")
    failed.__cause__ = ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device")
    assert is_disk_full(failed)
    assert is_disk_full(OSError(28, "No space left on device"))
    assert not is_disk_full(OSError(13, "Permission denied"))
