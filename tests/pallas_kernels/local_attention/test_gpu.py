import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import pytest
from jax import export
from jax.test_util import check_grads

from pallas_kernels import aot
from pallas_kernels.local_attention import gpu
from pallas_kernels.local_attention.shapes import CASES, Case
from tests.pallas_kernels.local_attention.problems import (
    SUPERRES,
    arrays,
    cases,
    check_against_reference,
    check_bfloat16,
    output_and_grads,
)

TRITON = "__gpu$xla.gpu.triton"
FAST = ("60x60, window 9x9", "60x60, window 9x5 and 20x20, 5x5", "10x20x20, window 3x3x3, 77 text")


@pytest.fixture
def small_steps(monkeypatch):
    """Small grids take several programs and chunks, so that halos and overhangs are met."""
    blocks = {"tile": 16, "chunk": 16, "warps": 4, "stages": 2}
    monkeypatch.setattr(gpu, "settings", lambda *_: blocks)


def test_two_windows_and_text_in_one_softmax_have_the_references_values_and_gradients(small_steps):
    check_against_reference(gpu.attend, SUPERRES)


@hypothesis.settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(cases())
def test_values_and_gradients_are_the_references(small_steps, case):
    check_against_reference(gpu.attend, case)


@pytest.mark.slow
@hypothesis.settings(
    max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(cases())
def test_values_and_gradients_are_the_references_for_many_shapes(small_steps, case):
    check_against_reference(gpu.attend, case)


def test_bfloat16_keeps_its_type_and_sums_in_float32():
    check_bfloat16(gpu.attend, dataclasses.replace(SUPERRES, dim=32))


def test_gradients_agree_with_finite_differences(small_steps):
    case = Case("tiny", (5,), (3,), causal=True, extra=3, heads=1, dim=2)
    *windows, (extra_key, extra_value, mask) = arrays(case, batch=1)

    @jax.jit
    def function(query, keys, values, key, value):
        return gpu.attend(query, keys, values, (key, value, mask), case.geometry, interpret=True)

    check_grads(function, (*windows, extra_key, extra_value), order=1, modes=["rev"], rtol=2e-2)


def _both(case: Case):
    return lambda *arguments: output_and_grads(gpu.attend, arguments, case.geometry)


REAL = [
    pytest.param(case, id=case.name, marks=() if case.name in FAST else pytest.mark.slow) for case in CASES
]


@pytest.mark.parametrize("case", REAL)
def test_real_sizes_lower_for_cuda_forward_and_backward(case):
    lowered = export.export(
        jax.jit(_both(case)),
        platforms=["cuda"],
        disabled_checks=[export.DisabledSafetyCheck.custom_call(TRITON)],
    )(*case.arguments(1, jnp.bfloat16))
    # Forward, the gradient of the queries, and one kernel for each set of keys.
    kernels = 2 + len(case.geometry.windows) + (case.extra > 0)
    assert lowered.mlir_module().count(TRITON) == kernels


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_real_sizes_compile_for_an_h100(case, dtype):
    try:
        aot.h100()
    except ValueError as reason:
        pytest.skip(str(reason))
    arguments = case.arguments(1, dtype)
    compiled = aot.compile_for_gpu(_both(case), *arguments)
    # The cotangent of this test and two statistics a query.
    assert compiled.temporary_bytes < 8 * arguments[0].size
