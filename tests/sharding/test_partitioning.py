"""Partitioning: eight devices give the numbers of one, and arrays are sharded by the rules."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from muse_jax.sharding.partitioning import (
    MESH_AXES,
    check_batch_size,
    like_params,
    make_mesh,
    place_devices,
    process_rows,
    tree_shardings,
)
from muse_jax.systems.amused.uvit import UVit2D
from muse_jax.systems.cogview2.coglm import CogLM
from muse_jax.systems.muse.masked_transformer import MaskedTransformer
from muse_jax.systems.muse.superres_transformer import SuperResTransformer
from muse_jax.text.bert import BertEncoder
from muse_jax.text.t5 import T5_SIZES, T5Encoder
from muse_jax.tokenizers import VQGAN
from muse_jax.tokenizers.discriminator import Discriminator
from muse_jax.training.optimizers import make_optimizer
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
        make_mesh(dict(zip(("data", "fsdp", "tensor"), shape, strict=True)), jax.devices()[:1])


def test_a_batch_that_cannot_be_split_is_refused():
    class Mesh:
        shape = {"data": 4, "fsdp": 2, "tensor": 1}

    check_batch_size(16, Mesh())
    with pytest.raises(ValueError, match="batch_size is 12, .* make it a multiple of 8"):
        check_batch_size(12, Mesh())


def test_microbatches_that_do_not_divide_a_shard_are_refused():
    class Mesh:
        shape = {"data": 4, "fsdp": 1, "tensor": 2}

    check_batch_size(24, Mesh(), accumulate=3)
    with pytest.raises(ValueError, match="accumulate is 4, but it must divide the 6 images"):
        check_batch_size(24, Mesh(), accumulate=4)


@dataclasses.dataclass(frozen=True)
class Chip:
    """The attributes of a device that placement reads."""

    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "some"


CHIPS = [Chip(i, i % 3) for i in range(12)]  # three slices of four, interleaved


def test_slices_are_consecutive_along_the_data_axis():
    placed = place_devices((6, 2, 1), 3, CHIPS)
    assert placed.shape == (6, 2, 1)
    for place, chip in np.ndenumerate(placed):
        assert chip.slice_index == place[0] // 2
    assert {chip.id for chip in placed.flat} == set(range(12))


@pytest.mark.parametrize(
    "sizes, slices, message",
    [
        (
            (12, 1, 1),
            4,
            "slices is 4, but the 12 devices form 3: set it to their number",
        ),
        ((12, 1, 1), 2, "slices is 2"),
        ((4, 3, 1), 3, "data=4, which 3 slices do not divide"),
    ],
)
def test_slices_that_do_not_fit_are_refused(sizes, slices, message):
    with pytest.raises(ValueError, match=message):
        place_devices(sizes, slices, CHIPS)


def test_one_slice_is_allowed_on_many_hosts_but_not_on_many_tpu_slices():
    assert place_devices((12, 1, 1), 1, CHIPS).shape == (12, 1, 1)
    with pytest.raises(ValueError, match="slices is 1, but"):
        place_devices((12, 1, 1), 1, [dataclasses.replace(chip, platform="tpu") for chip in CHIPS])


def test_a_single_process_reads_every_row():
    assert process_rows(6).tolist() == list(range(6))
    with jax.set_mesh(make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])):
        assert process_rows(6).tolist() == list(range(6))


MESH = AbstractMesh((1, 8, 2), MESH_AXES)
TOKENS, TEXT, MASK = jnp.zeros((1, 256), jnp.int32), jnp.zeros((1, 4, 4096)), jnp.ones((1, 4), bool)
NETWORKS = {
    "masked": (
        MaskedTransformer(8192, width=2048, depth=48, heads=16, mlp_dim=8192),
        (TOKENS, TEXT, MASK),
    ),
    "superres": (SuperResTransformer(8192, 8192), (jnp.zeros((1, 4096), jnp.int32), TOKENS, TEXT, MASK)),
    "coglm": (CogLM(150_000), (jnp.zeros((1, 512), jnp.int32),) * 2),
    "uvit": (UVit2D(), (TOKENS, TEXT[..., :768], TEXT[:, 0, :768], jnp.zeros((1, 5)))),
    "t5": (T5Encoder(list(T5_SIZES.values())[-1]), (TOKENS[:, :8], TOKENS[:, :8] > 0)),
    "minilm": (BertEncoder(), (TOKENS[:, :8], TOKENS[:, :8] > 0)),
    "vqgan": (VQGAN(decoder_filters=256), (jnp.zeros((1, 32, 32, 3)),)),
    "discriminator": (Discriminator(), (jnp.zeros((1, 256, 256, 3)),)),
}


def shares(boxed, mesh):
    """(path, elements, number of shards) of each leaf that is more than one vector per layer."""
    shardings = jax.tree.leaves(tree_shardings(boxed, mesh))
    leaves = jax.tree_util.tree_leaves_with_path(nn.unbox(boxed))
    for (path, leaf), sharding in zip(leaves, shardings, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if len(leaf.shape) - ("layers/" in name) >= 2:
            parts = math.prod(mesh.shape[axis] for axis in sharding.spec if axis)
            yield name, math.prod(leaf.shape), parts


@pytest.mark.parametrize("name", NETWORKS)
def test_no_large_weight_of_a_network_is_replicated(name):
    module, inputs = NETWORKS[name]
    leaves = list(shares(jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"], MESH))
    assert [path for path, size, parts in leaves if parts < 8 and size > 2**15] == []
    total, held = sum(size for _, size, _ in leaves), sum(size / parts for _, size, parts in leaves)
    assert held < total / 8 * 1.02


def test_moments_are_sharded_like_their_parameters_and_factored_ones_along_the_axes_they_keep():
    params = {
        "a": jax.ShapeDtypeStruct((4, 256, 3, 512), jnp.float32),
        "b": jax.ShapeDtypeStruct((512, 512), jnp.float32),
        "c": jax.ShapeDtypeStruct((64,), jnp.float32),
    }
    spec = {
        "a": PartitionSpec(None, "fsdp", None, "tensor"),
        "b": PartitionSpec("tensor", "fsdp"),
        "c": PartitionSpec("fsdp"),
    }
    shardings = jax.tree.map(lambda s: NamedSharding(MESH, s), spec)
    optim = {"grad_clip": 1.0, "b1": 0.9, "b2": 0.9, "eps": 1e-8, "weight_decay": 0.1}
    optim |= {"lr": 1.0, "warmup_steps": 1, "decay": "constant"}

    def specs(name):
        shapes = jax.eval_shape(make_optimizer({**optim, "name": name}, 10).init, params)
        laid = like_params(shapes, params, shardings, MESH)
        # Every part must be a whole number of elements.
        jax.tree.map(lambda leaf, sharding: sharding.shard_shape(leaf.shape), shapes, laid)
        return jax.tree.map(lambda sharding: sharding.spec, laid)

    adam = specs("adamw")[1]
    assert adam.mu == adam.nu == spec and adam.count == PartitionSpec()
    factored, momentum = specs("adafactor")[1], specs("adafactor")[3]
    assert momentum.ema == spec
    assert factored.v_row["a"] == PartitionSpec(None, "fsdp", None)  # means over the 512
    assert factored.v_col["a"] == PartitionSpec(None, None, "tensor")  # means over the 256
    # As optax has it: rows are means over the last axis, columns over the first.
    assert factored.v_row["b"] == PartitionSpec("tensor") and factored.v_col["b"] == PartitionSpec("fsdp")
    assert factored.v["c"] == PartitionSpec("fsdp") and factored.v_row["c"] == PartitionSpec()
