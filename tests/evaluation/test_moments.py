import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.evaluation.moments import Moments
from muse_jax.sharding.partitioning import make_mesh


def accumulate(features, sizes, dim, mesh=None):
    """Moments of features that arrive in batches of 8 rows, of which only the first `sizes` count."""
    shardings = None if mesh is None else Moments.shardings(dim, mesh)
    update = jax.jit(Moments.update, out_shardings=shardings)
    moments, done = Moments.zeros(dim), 0
    for size in sizes:
        batch = np.full((8, dim), 1e6, np.float32)
        batch[:size] = features[done : done + size]
        moments = update(moments, jnp.asarray(batch), jnp.arange(8) < size)
        done += size
    assert done == len(features)
    return moments


def test_moments_in_batches_equal_float64_on_all():
    """Means a thousand times the spread: float32 sums of squares would lose every digit."""
    rng = np.random.default_rng(0)
    features = rng.normal(1000, 1, size=(37, 4)).astype(np.float32)
    mean, covariance, count = accumulate(features, [8, 8, 0, 8, 8, 5], 4).statistics()
    exact = features.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-13)
    np.testing.assert_allclose(covariance, np.cov(exact.T), rtol=1e-9, atol=1e-9)
    assert count == 37


def test_moments_do_not_depend_on_the_mesh():
    features = np.random.default_rng(1).normal(3, 2, size=(24, 6)).astype(np.float32)
    alone = accumulate(features, [8, 8, 8], 6)
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    for x, y in zip(
        jax.tree.leaves(alone), jax.tree.leaves(accumulate(features, [8, 8, 8], 6, mesh)), strict=True
    ):
        np.testing.assert_array_equal(x, y)


def test_one_sample_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 samples"):
        accumulate(np.zeros((1, 3), np.float32), [1], 3).statistics()
