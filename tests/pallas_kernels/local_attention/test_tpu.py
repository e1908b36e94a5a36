import jax.numpy as jnp
import pytest

from pallas_kernels import aot
from pallas_kernels.local_attention import tpu
from pallas_kernels.local_attention.arg_specs import CASES, Case
from tests.pallas_kernels.local_attention.problems import output_and_grads

needs_libtpu = pytest.mark.skipif(aot.missing() is not None, reason=aot.missing() or "")
BY_NAME = {case.name: case for case in CASES}


def _compile(case: Case, topology: str, dtype) -> aot.Compiled:
    def both(*arguments):
        return output_and_grads(tpu.attend, arguments, case.geometry)

    return aot.compile_for_tpu(both, *case.arguments(1, dtype), topology=topology)


def _check_fits(case: Case, topology: str, dtype) -> None:
    """Compiles, which fails beyond VMEM, and checks that HBM holds less than the scores of all pairs.

    Dense attention makes three of them, forward and backward.
    """
    all_scores = 4 * case.heads * case.geometry.tokens**2
    assert _compile(case, topology, dtype).temporary_bytes < all_scores


@needs_libtpu
@pytest.mark.parametrize(
    "name, topology",
    [
        ("60x60, window 9x9", "v5e"),
        ("60x60, window 9x5 and 20x20, 5x5", "v6e"),
        ("10x21x21, window 3x3x3, causal", "v5e"),
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
def test_memory_of_a_large_grid_is_far_below_that_of_all_pairs():
    case = BY_NAME["128x128, window 9x9"]
    all_scores = 4 * case.heads * case.geometry.tokens**2
    assert _compile(case, "v5e", jnp.bfloat16).temporary_bytes < all_scores / 25
