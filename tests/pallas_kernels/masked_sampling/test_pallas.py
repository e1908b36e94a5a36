"""The Pallas kernels interpreted, compiled ahead of time for TPUs, and lowered for CUDA."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pallas_kernels import aot
from pallas_kernels.masked_sampling import gpu, reference, tpu
from tests.pallas_kernels.cuda import TRITON, lower_for_cuda, needs_gpu_compiler

FORMS = {"tpu": tpu.sample, "gpu": gpu.sample}


def inputs(rows, width, vocab, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    hidden, table = rng.normal(size=(rows, width)) / np.sqrt(width), rng.normal(size=(vocab, width))
    return (
        jnp.asarray(hidden, dtype),
        jnp.asarray(table, dtype),
        jnp.asarray(rng.normal(size=vocab), jnp.float32),
    )


def shapes(rows, width, vocab, dtype):
    array = jax.ShapeDtypeStruct
    hidden, table, bias = (
        array((rows, width), dtype),
        array((vocab, width), dtype),
        array((vocab,), jnp.float32),
    )
    return hidden, table, bias, array((2,), jnp.uint32), array((), jnp.float32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "rows, width, vocab, dtype",
    [
        (140, 24, 1100, jnp.float32),  # nothing divides: several blocks of each kind, all padded
        pytest.param(64, 64, 512, jnp.bfloat16, marks=pytest.mark.slow),
        pytest.param(3, 130, 11, jnp.float32, marks=pytest.mark.slow),
    ],
)
def test_the_tokens_equal_the_reference_s(form, rows, width, vocab, dtype):
    arrays = inputs(rows, width, vocab, dtype)
    seed, temperature = jnp.array([3, 5], jnp.uint32), jnp.float32(0.7)
    token, log_prob = jax.jit(functools.partial(FORMS[form], interpret=True))(*arrays, seed, temperature)
    expected, expected_log_prob = jax.jit(reference.sample)(*arrays, seed, temperature)
    np.testing.assert_array_equal(token, expected)
    np.testing.assert_allclose(log_prob, expected_log_prob, rtol=1e-5, atol=1e-5)


needs_libtpu = pytest.mark.skipif(aot.missing() is not None, reason=str(aot.missing()))
SIZES = [(256 * 256, 1024, 8192, jnp.bfloat16), (256 * 256, 2048, 20_000, jnp.bfloat16)]
SIZES += [(4 * 256, 1024, 8192, jnp.float32), (4 * 400, 2048, 20_000, jnp.float32)]


@needs_libtpu
@pytest.mark.parametrize("rows, width, vocab, dtype", SIZES)
@pytest.mark.parametrize(
    "topology", [topology if topology == "v5e" else pytest.param(topology, marks=pytest.mark.slow)
                 for topology in aot.TOPOLOGIES],
)  # fmt: skip
def test_compiles_for_tpu_without_logits(topology, rows, width, vocab, dtype):
    compiled = aot.compile_for_tpu(tpu.sample, *shapes(rows, width, vocab, dtype), topology=topology)
    assert compiled.temporary_bytes < 4 * rows * vocab / 100
    assert compiled.output_bytes < 16 * rows


@needs_libtpu
def test_compiles_for_four_chips_with_sharded_rows():
    mesh = Mesh(np.array(aot.devices("v5e")).reshape(2, 2), ("data", "tensor"))
    with jax.set_mesh(mesh):
        arguments = [
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec()))
            for x in shapes(1022, 256, 2048, jnp.bfloat16)
        ]
        program = jax.jit(tpu.sample).lower(*arguments).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * 1022 * 2048 / 4


SPLIT = """
import functools, sys
import jax, jax.numpy as jnp, numpy as np
from pallas_kernels.masked_sampling import gpu, reference, tpu
from tests.pallas_kernels.masked_sampling.test_pallas import inputs

arguments = *inputs(10, 16, 300), jnp.array([3, 5], jnp.uint32), jnp.float32(0.7)
expected = jax.jit(reference.sample)(*arguments)
with jax.set_mesh(jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)):
    for form in (tpu, gpu):
        got = jax.jit(functools.partial(form.sample, interpret=True))(*arguments)
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_allclose(got[1], expected[1], rtol=1e-5, atol=1e-5)
print("split over", jax.device_count())
"""


@pytest.mark.slow
def test_four_devices_sample_the_same_tokens_as_one():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", SPLIT],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "split over 4", done.stderr


@pytest.mark.parametrize("rows, width, vocab, dtype", SIZES[:2])
def test_lowers_for_cuda_through_triton(rows, width, vocab, dtype):
    exported = lower_for_cuda(gpu.sample, *shapes(rows, width, vocab, dtype))
    assert TRITON in exported.mlir_module()
    assert [out.shape for out in exported.out_avals] == [(rows,), (rows,)]


# The compiler takes seconds for tensor cores, a minute where float32 has none.
GPU_SIZES = [
    size if size[3] == jnp.bfloat16 else pytest.param(*size, marks=pytest.mark.slow) for size in SIZES
]


@needs_gpu_compiler
@pytest.mark.parametrize("kind", ["a100", "h100"])
@pytest.mark.parametrize("rows, width, vocab, dtype", GPU_SIZES)
def test_compiles_for_gpu_without_logits_or_a_copy_of_the_table(kind, rows, width, vocab, dtype):
    compiled = aot.compile_for_gpu(gpu.sample, *shapes(rows, width, vocab, dtype), kind=kind)
    assert compiled.temporary_bytes < min(4 * rows * vocab, 2 * vocab * width) / 10
    assert compiled.output_bytes < 16 * rows
