"""Detection of other processes, and equal losses for any number of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from muse_jax.sharding.distributed import process_arguments

HAND = {"JAX_COORDINATOR_ADDRESS": "node0:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    "environment, tpu, joins",
    [
        ({}, False, False),
        ({**SLURM, "SLURM_NTASKS": "1"}, False, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, False, False),  # the shell of an allocation, not a task
        (SLURM, False, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_SKIP_MDS_QUERY": "1"}, True, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, True, True),  # GKE, one slice
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, True, True),  # GKE, slices of one host
        ({}, True, True),  # a TPU VM asks its metadata server
        ({"JAX_PLATFORMS": "cpu"}, True, False),
    ],
)
def test_environments_with_and_without_other_processes(environment, tpu, joins):
    assert process_arguments(environment, tpu) == ({} if joins else None)


def test_explicit_settings_take_precedence():
    given = process_arguments({**SLURM, **HAND}, True)
    assert given == {
        "coordinator_address": "node0:1234",
        "num_processes": 4,
        "process_id": 3,
        "cluster_detection_method": "deactivate",
    }


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"JAX_PROCESS_ID": ""},
            "JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES are set, but JAX_PROCESS_ID is not",
        ),
        ({"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID is 4 and JAX_NUM_PROCESSES 4: ids go from 0"),
        ({"JAX_NUM_PROCESSES": "four"}, "JAX_NUM_PROCESSES is 'four', but must be a whole number"),
        ({"JAX_COORDINATOR_ADDRESS": "node0"}, "'node0', but must be HOST:PORT"),
    ],
)
def test_wrong_explicit_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        process_arguments({**HAND, **change}, False)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["base", "vqgan"])
def test_meshes_and_processes_give_the_losses_of_one_device_and_read_each_others_checkpoints(
    config, tmp_path
):
    command = [sys.executable, "-m", "experiments.check_sharding", f"--config=configs/smoke/{config}.py"]
    command += [f"--workdir={tmp_path}", "--config.data.batch_size=8"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2x4_tensor   from 1x8_fsdp's checkpoint" in done.stdout
