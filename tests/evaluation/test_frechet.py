import numpy as np
import pytest
import scipy.linalg

from muse_jax.evaluation.frechet import frechet_distance


def random_cov(rng, dim):
    root = rng.normal(size=(dim, dim))
    return root @ root.T / dim


def test_equals_the_closed_form_where_covariances_commute():
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 0.0])
    mean = np.array([0.0, 3.0, 4.0])
    # |mean|^2 + sum of (standard deviation differences)^2
    assert frechet_distance(mean, np.diag(a), 0 * mean, np.diag(b)) == pytest.approx(25 + 1 + 1 + 9)


def test_equals_the_formula_with_a_matrix_square_root():
    rng = np.random.default_rng(0)
    cov_a, cov_b = random_cov(rng, 6), random_cov(rng, 6)
    mean_a, mean_b = rng.normal(size=(2, 6))
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(mean_a, cov_a, mean_b, cov_b) == pytest.approx(expected)


def test_of_itself_is_nothing_even_with_fewer_samples_than_dimensions():
    features = np.random.default_rng(0).normal(size=(10, 30))
    statistics = features.mean(0), np.cov(features.T)
    assert frechet_distance(*statistics, *statistics) == pytest.approx(0, abs=1e-6)
