import importlib.util
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import aot

needs_libtpu = pytest.mark.skipif(aot.missing() is not None, reason=aot.missing() or "")
SQUARE = jax.ShapeDtypeStruct((512, 512), jnp.float32)


def test_the_reason_for_missing_libtpu_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install -e '.[plan]'" in aot.missing()
    with pytest.raises(ValueError, match="pip install -e"):
        aot.devices("v5e:16x16")


@needs_libtpu
def test_the_flops_of_a_matrix_product_are_counted():
    compiled = aot.compile_for_tpu(jnp.matmul, SQUARE, SQUARE)
    assert compiled.argument_bytes == 2 * 512 * 512 * 4
    assert compiled.output_bytes == 512 * 512 * 4
    assert compiled.cost["flops"] == pytest.approx(2 * 512**3, rel=0.01)


@needs_libtpu
def test_a_kernel_that_exceeds_vmem_is_refused():
    def copy(x_ref, out_ref, scratch_ref):
        scratch_ref[:8] = x_ref[...]
        out_ref[...] = scratch_ref[:8]

    rows = jax.ShapeDtypeStruct((8, 128), jnp.float32)
    scratch = pltpu.VMEM((2**21, 128), jnp.float32)  # 1 GiB
    kernel = pl.pallas_call(copy, out_shape=rows, scratch_shapes=[scratch])
    with pytest.raises(jax.errors.JaxRuntimeError, match="(?i)vmem"):
        aot.compile_for_tpu(kernel, rows)


@needs_libtpu
def test_two_processes_can_compile_at_the_same_time():
    aot.devices("v5e")  # libtpu stays loaded here
    program = "from pallas_kernels import aot; print(aot.devices('v6e')[0].device_kind)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "TPU v6 lite"
