"""FSDP inside a program: weights are gathered, gradients scattered, activations not moved."""

import json
import os
import re
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec as P
from muse_jax.nn.linear import Dense
from muse_jax.sharding.fsdp import constrain
from muse_jax.sharding.partitioning import RULES, make_mesh

mesh = make_mesh({"data": 1, "fsdp": 8, "tensor": 1})
dense = Dense((512,), ("embed", "mlp"))
x = jax.random.normal(jax.random.key(0), (8, 1, 64))
kernel = jax.random.normal(jax.random.key(1), (64, 512))
batch, shards = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P("fsdp", None))

def loss(kernel, x):
    return jnp.mean(jnp.square(dense.apply({"params": {"kernel": kernel}}, x)))

with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
    step = jax.jit(jax.value_and_grad(loss), in_shardings=(shards, batch))
    compiled = step.lower(kernel, x).compile()
    value, grad = step(kernel, x)
    rows = [constrain(jnp.ones((size, 4)), ("batch", None)) for size in (1, 16)]  # outside a program
expected = jax.value_and_grad(lambda k: jnp.mean(jnp.square(x @ k)))(kernel)
print(json.dumps({
    "hlo": compiled.as_text(),
    "rows": [row.addressable_shards[0].data.shape for row in rows],
    "shard": grad.addressable_shards[0].data.shape,
    "errors": [float(abs(value / expected[0] - 1)), float(jnp.abs(grad - expected[1]).max())],
}))
"""


@pytest.fixture(scope="module")
def result():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def test_the_weight_is_gathered_and_not_the_activations(result):
    # The whole batch has 512 numbers, the weight 32,768: the weight is gathered nevertheless.
    gathered = re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", result["hlo"])
    assert gathered == ["64,512"]
    assert "all-to-all" not in result["hlo"]


def test_the_gradient_of_a_gathered_weight_is_sharded_like_it(result):
    assert result["shard"] == [8, 512]


def test_a_gathered_weight_gives_the_same_product_as_one_device(result):
    assert max(result["errors"]) < 1e-5


def test_an_axis_that_the_mesh_does_not_divide_is_not_sharded(result):
    assert result["rows"] == [[1, 4], [2, 4]]
