"""Pipelines on a mesh and in a given dtype."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from muse_jax.systems.base import load_pipeline
from tests.systems.muse.tiny import tiny_pipeline

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("cogview2", "nuwa")]


@pytest.mark.parametrize("name", ["muse", *SLOW])
def test_eight_devices_draw_the_images_of_one_from_weights_in_shards(name):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.systems.on_mesh", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    differing, share = json.loads(done.stdout.splitlines()[-1])
    assert differing == [0, 0] and share <= 1 / 2


def test_weights_arrive_in_the_dtype_that_is_asked_for(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    pipe = load_pipeline(tmp_path, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(pipe.params)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(pipe.text_encoder.params)} == {jnp.dtype(jnp.bfloat16)}
    assert pipe.base.network.dtype == pipe.base.tokenizer.dtype == jnp.bfloat16
    assert pipe.generate(["a red heart"], num_steps=1, superres_num_steps=1).shape == (1, 32, 32, 3)


def test_a_program_is_traced_as_it_runs():
    pipe = tiny_pipeline()
    traced = pipe.trace_generate(2)
    assert traced.out_info.shape == (2, 32, 32, 3) and traced.out_info.dtype == jnp.uint8
