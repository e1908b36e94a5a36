"""The TPU and GPU kernels in interpret mode against the reference."""

import dataclasses

import hypothesis
import jax
import pytest
from jax.test_util import check_grads

from pallas_kernels.local_attention import gpu, tpu
from pallas_kernels.local_attention.arg_specs import Case
from tests.pallas_kernels.local_attention.problems import (
    SUPERRES,
    arrays,
    cases,
    check_against_reference,
    check_bfloat16,
)

SMALL_STEPS = {gpu: {"tile": 16, "chunk": 16, "warps": 4, "stages": 2}, tpu: {"scores": 2048}}
many = pytest.mark.parametrize("kernels", SMALL_STEPS, ids=["gpu", "tpu"])


@pytest.fixture
def small_steps(kernels, monkeypatch):
    """Settings that split small grids into several programs, so that halos and overhangs occur."""
    monkeypatch.setattr(kernels, "settings", lambda *_: SMALL_STEPS[kernels])
    monkeypatch.setattr(gpu, "_PART", 48)


@many
def test_two_windows_and_text_in_one_softmax_equal_the_reference(kernels, small_steps):
    check_against_reference(kernels.attend, SUPERRES)


@many
@hypothesis.settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(case=cases())
def test_values_and_gradients_equal_the_reference_s(kernels, small_steps, case):
    check_against_reference(kernels.attend, case)


@many
@pytest.mark.slow
@hypothesis.settings(
    max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(case=cases())
def test_values_and_gradients_equal_the_reference_s_for_many_shapes(kernels, small_steps, case):
    check_against_reference(kernels.attend, case)


@many
def test_bfloat16_is_kept_with_sums_in_float32(kernels):
    check_bfloat16(kernels.attend, dataclasses.replace(SUPERRES, dim=32))


@many
def test_gradients_agree_with_finite_differences(kernels, small_steps):
    case = Case("tiny", (5,), (3,), causal=True, extra=3, heads=1, dim=2)
    *windows, (extra_key, extra_value, mask) = arrays(case, batch=1)

    @jax.jit
    def function(query, keys, values, key, value):
        return kernels.attend(query, keys, values, (key, value, mask), case.geometry, interpret=True)

    check_grads(function, (*windows, extra_key, extra_value), order=1, modes=["rev"], rtol=2e-2)
