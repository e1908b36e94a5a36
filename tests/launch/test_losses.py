"""Losses with T5 on one device, on meshes of eight and on two processes agree."""

import os
import subprocess
import sys

import pytest

from tests.launch import shrink
from tests.launch.commands import call

LAYOUTS = ("1x1", "1x8_data", "1x8_fsdp", "1x8_mixed", "2x4_mixed")


@pytest.mark.slow
def test_meshes_and_processes_give_the_losses_of_one_device_with_t5(tmp_path):
    call(tmp_path, shrink.write_inputs, "base_3b")
    # In bfloat16 sums in another order differ by more than the tolerance.
    changes = shrink.overrides({**shrink.sizes("muse/base_3b"), "model.dtype": "float32"})
    command = [sys.executable, "-m", "experiments.check_sharding", "--workdir=runs", "--steps=4"]
    command += [f"--config={shrink.REPOSITORY}/configs/muse/base_3b.py", f"--layouts={','.join(LAYOUTS)}"]
    done = subprocess.run(
        command + changes,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(shrink.REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2x4_mixed    4 losses differ from those of 1x1 by" in done.stdout
