import math

import jax
import numpy as np
import pytest
from scipy import integrate

from muse_jax.sampling import cosine_mask_ratio, sample_mask, sample_mask_ratio
from muse_jax.sampling.schedules import mask_ratio_density, ranks, remask_counts, reveal_counts


def key(seed):
    return jax.random.key(seed, impl="rbg")


def test_mask_ratio_has_the_published_density():
    """Histogram of the ratio against the integral of 2/pi (1 - r^2)^(-1/2), which is 2/pi arcsin(r)."""
    count = 40_000
    ratio = np.array(sample_mask_ratio(key(0), (count,)))
    edges = np.linspace(0, 1, 11)
    expected = count * np.diff(2 / np.pi * np.arcsin(edges))
    observed = np.histogram(ratio, edges)[0]
    chi_square = np.sum((observed - expected) ** 2 / expected)
    assert chi_square < 33.7  # 9 degrees of freedom, p = 1e-4
    assert ratio.mean() == pytest.approx(2 / np.pi, abs=0.005)
    area, _ = integrate.quad(lambda r: float(mask_ratio_density(r)), 0.1, 0.9)
    assert area == pytest.approx(2 / np.pi * (math.asin(0.9) - math.asin(0.1)), rel=1e-4)


def test_masks_have_the_ratio_s_distribution_and_are_uniform_over_positions():
    mask = np.array(sample_mask(key(1), 4000, 64))
    share = mask.mean(axis=1)
    assert mask.dtype == bool and mask.sum(axis=1).min() >= 1
    assert share.mean() == pytest.approx(2 / np.pi, abs=0.02)  # standard error 0.005
    assert share.std() == pytest.approx(math.sqrt(1 / 2 - 4 / np.pi**2), abs=0.02)  # E cos^2 = 1/2
    assert np.ptp(mask.mean(axis=0)) < 0.06  # standard error 0.008 a position


def test_at_least_one_token_is_masked_in_a_tiny_grid():
    mask = np.array(sample_mask(key(2), 2000, 2))
    assert set(mask.sum(axis=1)) == {1, 2}
    with pytest.raises(ValueError, match="at least one sample and one token"):
        sample_mask(key(0), 2, 0)


def test_a_single_token_is_always_masked():
    assert np.array(sample_mask(key(0), 1, 1)).tolist() == [[True]]


def test_cosine_schedule_ends():
    np.testing.assert_allclose(cosine_mask_ratio(np.array([0, 2 / 3, 1])), [1, 0.5, 0], atol=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 12, 24])
def test_counts_at_every_step(num_steps):
    masked, revealed = remask_counts(num_steps, 64), reveal_counts(num_steps, 64)
    assert masked.shape == revealed.shape == (num_steps, 65)
    assert masked.dtype == revealed.dtype == np.int32
    for t in range(num_steps):
        for n0 in (0, 1, 5, 63, 64):
            assert masked[t, n0] == math.floor(n0 * math.cos(math.pi / 2 * (t + 1) / num_steps) + 1e-7)
            share = 1 - math.acos((t + 1) / num_steps) / (math.pi / 2)
            assert revealed[t, n0] == min(n0, max(t + 1, math.floor(n0 * share + 1e-7)))
    assert (masked[-1] == 0).all() and (revealed[-1] == np.arange(65)).all()
    assert (np.diff(masked, axis=0) <= 0).all() and (np.diff(revealed, axis=0) >= 0).all()


def test_integer_products_are_not_rounded_down():
    n0 = np.arange(0, 4097, 6)
    np.testing.assert_array_equal(remask_counts(3, 4096)[1, n0], n0 // 2)  # cos(60 degrees) = 1/2
    np.testing.assert_array_equal(reveal_counts(2, 4096)[0, n0[1:]], n0[1:] // 3)  # arccos(1/2) = pi/3


def test_ranks_break_ties_by_position():
    assert ranks(np.array([[3.0, 1.0, 3.0, 1.0, -1.0]])).tolist() == [[3, 1, 4, 2, 0]]


def test_ranks_are_of_the_last_axis():
    values = np.random.default_rng(0).random((2, 3, 5))
    for got, row in zip(np.array(ranks(values)).reshape(-1, 5), values.reshape(-1, 5), strict=True):
        assert got.tolist() == [sum(other < value for other in row) for value in row]
    assert ranks(np.array([2.0, 1.0])).tolist() == [1, 0]
