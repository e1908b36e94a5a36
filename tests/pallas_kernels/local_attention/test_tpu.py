import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import pytest
from jax.test_util import check_grads

from pallas_kernels import aot
from pallas_kernels.local_attention import tpu
from pallas_kernels.local_attention.shapes import CASES, Case
from tests.pallas_kernels.local_attention.problems import (
    SUPERRES,
    arrays,
    cases,
    check_against_reference,
    check_bfloat16,
    output_and_grads,
)

needs_libtpu = pytest.mark.skipif(aot.missing() is not None, reason=aot.missing() or "")
BY_NAME = {case.name: case for case in CASES}


@pytest.fixture
def small_steps(monkeypatch):
    """Small grids take several steps, so that halos and overhangs are met."""
    monkeypatch.setattr(tpu, "settings", lambda *_: {"scores": 2048})


def test_two_windows_and_text_in_one_softmax_have_the_references_values_and_gradients(small_steps):
    check_against_reference(tpu.attend, SUPERRES)


@hypothesis.settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(cases())
def test_values_and_gradients_are_the_references(small_steps, case):
    check_against_reference(tpu.attend, case)


@pytest.mark.slow
@hypothesis.settings(
    max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(cases())
def test_values_and_gradients_are_the_references_for_many_shapes(small_steps, case):
    check_against_reference(tpu.attend, case)


def test_bfloat16_keeps_its_type_and_sums_in_float32():
    check_bfloat16(tpu.attend, dataclasses.replace(SUPERRES, dim=32))


def test_gradients_agree_with_finite_differences():
    case = Case("tiny", (5,), (3,), causal=True, extra=3, heads=1, dim=2)
    *windows, (extra_key, extra_value, mask) = arrays(case, batch=1)

    @jax.jit
    def function(query, keys, values, key, value):
        return tpu.attend(query, keys, values, (key, value, mask), case.geometry, interpret=True)

    check_grads(function, (*windows, extra_key, extra_value), order=1, modes=["rev"], rtol=2e-2)


def _compile(case: Case, topology: str, dtype) -> aot.Compiled:
    def both(*arguments):
        return output_and_grads(tpu.attend, arguments, case.geometry)

    return aot.compile_for_tpu(both, *case.arguments(1, dtype), topology=topology)


def _check_fits(case: Case, topology: str, dtype) -> None:
    """The compiler refuses what VMEM cannot hold. HBM must hold less than one array of all pairs' scores.

    Dense attention makes three of them, forward and backward.
    """
    all_scores = 4 * case.heads * case.geometry.tokens**2
    assert _compile(case, topology, dtype).temporary_bytes < all_scores


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "topology"),
    [
        ("60x60, window 9x9", "v5e"),
        ("60x60, window 9x5 and 20x20, 5x5", "v6e"),
        ("10x20x20, window 3x3x3, 77 text", "tpu7x"),
    ],
)
def test_real_sizes_compile_forward_and_backward_inside_vmem(name, topology):
    _check_fits(BY_NAME[name], topology, jnp.bfloat16)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("topology", list(aot.TOPOLOGIES))
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_size_compiles_for_every_tpu(case, topology, dtype):
    _check_fits(case, topology, dtype)


@needs_libtpu
@pytest.mark.slow
def test_a_large_grid_takes_a_small_part_of_the_memory_of_all_pairs():
    case = BY_NAME["128x128, window 9x9"]
    all_scores = 4 * case.heads * case.geometry.tokens**2
    assert _compile(case, "v5e", jnp.bfloat16).temporary_bytes < all_scores / 25
