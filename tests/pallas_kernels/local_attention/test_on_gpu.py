"""The kernels on an NVIDIA GPU: `python -m pytest -m gpu`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.local_attention import gpu, xla
from pallas_kernels.local_attention.arg_specs import CASES, Case
from tests.pallas_kernels.cuda import on_gpu
from tests.pallas_kernels.local_attention.problems import (
    SUPERRES,
    arrays,
    check_against_reference,
    check_bfloat16,
    output_and_grads,
)

pytestmark = on_gpu
SMALL = [
    SUPERRES,
    Case("causal video", (3, 5, 7), (3, 3, 3), causal=True, extra=3, heads=2, dim=16),
    Case("finer than its keys", (20, 20), (3, 3), key_grid=(10, 10), heads=2, dim=40),
]
small = pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)


@small
def test_values_and_gradients_equal_the_reference_s(case):
    with jax.default_matmul_precision("highest"):
        check_against_reference(gpu.attend, case, interpret=False, atol=5e-5)


@small
def test_bfloat16_agrees_with_the_reference(case):
    with jax.default_matmul_precision("highest"):
        check_bfloat16(gpu.attend, case, interpret=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_real_sizes_agree_with_plain_jax_in_float32(case):
    narrow = arrays(case, batch=1, dtype=jnp.bfloat16)
    wide = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(jnp.float32), narrow)
    ours = jax.jit(lambda a: output_and_grads(gpu.attend, a, case.geometry))(narrow)
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(lambda a: output_and_grads(xla.attend, a, case.geometry))(wide)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(np.float32(a), b, rtol=2**-6, atol=2**-5 * max(1, np.abs(b).max()))
