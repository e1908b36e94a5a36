import jax.numpy as jnp
import pytest

from pallas_kernels import aot
from pallas_kernels.local_attention import gpu
from pallas_kernels.local_attention.arg_specs import CASES, Case
from tests.pallas_kernels.cuda import TRITON, lower_for_cuda, needs_gpu_compiler
from tests.pallas_kernels.local_attention.problems import output_and_grads

FAST = ("60x60, window 9x9", "60x60, window 9x5 and 20x20, 5x5", "10x20x20, window 3x3x3, 77 text")


def _both(case: Case):
    return lambda *arguments: output_and_grads(gpu.attend, arguments, case.geometry)


REAL = [
    pytest.param(case, id=case.name, marks=() if case.name in FAST else pytest.mark.slow) for case in CASES
]


@pytest.mark.parametrize("case", REAL)
def test_real_sizes_lower_for_cuda_forward_and_backward(case):
    lowered = lower_for_cuda(_both(case), *case.arguments(1, jnp.bfloat16))
    # Forward, the gradient of the queries, and one kernel for each set of keys.
    kernels = 2 + len(case.geometry.windows) + (case.extra > 0)
    assert lowered.mlir_module().count(TRITON) == kernels


def _check_compiles(case: Case, kind: str, dtype) -> None:
    """Compiles, which fails beyond shared memory, and checks that only statistics are kept."""
    arguments = case.arguments(1, dtype)
    compiled = aot.compile_for_gpu(_both(case), *arguments, kind=kind)
    # The cotangent of this test and two statistics a query.
    assert compiled.temporary_bytes < 8 * arguments[0].size


@needs_gpu_compiler
@pytest.mark.parametrize("kind", ["a100", "h100"])
@pytest.mark.parametrize("name", FAST)
def test_real_sizes_compile(name, kind):
    _check_compiles({case.name: case for case in CASES}[name], kind, jnp.bfloat16)


@needs_gpu_compiler
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("kind", ["a100", "h100"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_size_compiles(case, kind, dtype):
    _check_compiles(case, kind, dtype)
