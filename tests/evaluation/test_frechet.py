import warnings

import numpy as np
import pytest
import scipy.linalg

from muse_jax.evaluation.frechet import FeatureMoments, fd_efficientnet_lite0, frechet_distance


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


def test_moments_in_batches_equal_numpy_on_all():
    features = np.random.default_rng(0).normal(5, 2, size=(37, 4))
    moments = FeatureMoments()
    for part in np.split(features, [1, 20, 20]):
        moments.update(part)
    mean, cov = moments.statistics()
    np.testing.assert_allclose(mean, features.mean(0))
    np.testing.assert_allclose(cov, np.cov(features.T))
    assert moments.count == 37


def test_of_itself_is_nothing_even_with_fewer_samples_than_dimensions():
    moments = FeatureMoments().update(np.random.default_rng(0).normal(size=(10, 30)))
    assert frechet_distance(*moments.statistics(), *moments.statistics()) == pytest.approx(0, abs=1e-6)


def test_few_samples_are_warned_of_and_enough_are_not():
    rng = np.random.default_rng(0)
    few, many = (FeatureMoments().update(rng.normal(size=(n, 2))) for n in (50, 2000))
    with pytest.warns(UserWarning, match="of 50 and 2000 samples is biased"):
        fd_efficientnet_lite0(few, many)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fd_efficientnet_lite0(many, many)


def test_bad_features_are_refused():
    with pytest.raises(ValueError, match="must be \\(batch, dim\\)"):
        FeatureMoments().update(np.zeros(3))
    with pytest.raises(ValueError, match="2 dimensions where 3 came before"):
        FeatureMoments().update(np.zeros((4, 3))).update(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="at least 2 samples"):
        FeatureMoments().update(np.zeros((1, 3))).statistics()
