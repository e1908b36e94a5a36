"""Sharding: the same numbers on eight devices as on one, and the layout that the rules ask for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from muse_jax.training.partitioning import check_batch_size, make_mesh
from tests.training.least_squares import LeastSquares, make_config

PROGRAM = """
import json, sys
import jax
from muse_jax.training import train
from tests.training.least_squares import LeastSquares, make_config

config = make_config(mesh__data=2, mesh__fsdp=2, mesh__tensor=2, log_every=1, eval_every=3)
state = train(config, LeastSquares(config), sys.argv[1])
kernel = state.params["Dense_0"]["kernel"]
moment = state.opt_state[1].mu["Dense_0"]["kernel"]
print(json.dumps({
    "devices": jax.device_count(),
    "shard": kernel.addressable_shards[0].data.shape,
    "specs": [tuple(leaf.sharding.spec) for leaf in (kernel, moment, state.ema["Dense_0"]["kernel"])],
}))
"""


def losses(workdir):
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    return [row.get("loss", row.get("mse")) for row in lines]


def test_eight_devices_give_the_losses_of_one(tmp_path):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "eight")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    layout = json.loads(done.stdout.splitlines()[-1])
    assert layout["devices"] == 8
    assert layout["shard"] == [4, 8]  # (8, 16) over fsdp=2 and tensor=2
    assert layout["specs"] == [["fsdp", "tensor"]] * 3

    from muse_jax.training import restore_params, train

    config = make_config(log_every=1, eval_every=3)
    train(config, LeastSquares(config), tmp_path / "one")
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "eight"), rel=1e-5)
    # A checkpoint of eight devices is read on one.
    left, right = (jax.tree.leaves(restore_params(tmp_path / name)) for name in ("one", "eight"))
    assert all(abs(a - b).max() < 1e-5 for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("shape", [(-1, 2, 1), (3, 1, 1), (-1, -1, 1), (0, 1, 1)])
def test_a_mesh_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match="config.mesh is"):
        make_mesh(dict(zip(("data", "fsdp", "tensor"), shape)), jax.devices()[:1])


def test_a_batch_that_cannot_be_split_is_refused():
    class Mesh:
        shape = {"data": 4, "fsdp": 2, "tensor": 1}

    check_batch_size(16, Mesh())
    with pytest.raises(ValueError, match="batch_size is 12, .* make it a multiple of 8"):
        check_batch_size(12, Mesh())
