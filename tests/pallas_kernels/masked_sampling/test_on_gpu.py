"""The kernel on an NVIDIA GPU: `python -m pytest -m gpu`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.masked_sampling import gpu, reference
from tests.pallas_kernels.cuda import on_gpu
from tests.pallas_kernels.masked_sampling.test_pallas import inputs

pytestmark = on_gpu


def _draws(rows, width, vocab, dtype):
    """Tokens and log-probabilities of the kernel and of the reference."""
    arguments = *inputs(rows, width, vocab, dtype), jnp.array([3, 5], jnp.uint32), jnp.float32(0.7)
    with jax.default_matmul_precision("highest"):
        return jax.jit(gpu.sample)(*arguments), jax.jit(reference.sample)(*arguments)


@pytest.mark.parametrize("rows, width, vocab", [(140, 24, 1100), (64, 64, 512), (3, 130, 11)])
def test_the_tokens_equal_the_reference_s(rows, width, vocab):
    (token, log_prob), (expected, expected_log_prob) = _draws(rows, width, vocab, jnp.float32)
    np.testing.assert_array_equal(token, expected)
    np.testing.assert_allclose(log_prob, expected_log_prob, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width, vocab", [(1024, 8192), (2048, 20_000)])
def test_real_sizes_differ_from_the_reference_only_in_near_ties(width, vocab):
    (token, log_prob), (expected, expected_log_prob) = _draws(16 * 256, width, vocab, jnp.bfloat16)
    same = np.asarray(token) == np.asarray(expected)
    assert same.mean() > 0.995
    np.testing.assert_allclose(log_prob[same], expected_log_prob[same], rtol=1e-3, atol=1e-3)
