"""Distances of distributions against their formulas, by loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.evaluation import kernel_distance as kernel_module
from muse_jax.evaluation.figures import interval
from muse_jax.evaluation.inception_score import ScoreSums
from muse_jax.evaluation.kernel_distance import gaussian_distance, kernel_distance
from muse_jax.evaluation.neighborhoods import precision_recall_density_coverage
from muse_jax.evaluation.sliced_distance import sliced_distance


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    return rng.normal(size=(23, 6)).astype(np.float32), rng.normal(0.5, 1.5, size=(31, 6)).astype(np.float32)


def kernel(x, y):
    return (float(x.astype(np.float64) @ y.astype(np.float64)) / len(x) + 1) ** 3


def test_kernel_distance_is_a_mean_over_pairs(pair, monkeypatch):
    a, b = pair
    monkeypatch.setattr(kernel_module, "BLOCK", 7)
    within = [
        np.mean([kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]) for s in (a, b)
    ]
    across = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * across)


def test_kernel_distance_is_unbiased():
    """The mean over many small samples of one distribution is 0, where a biased estimate is above it."""
    rng = np.random.default_rng(0)
    found = [kernel_distance(*rng.normal(size=(2, 5, 3))) for _ in range(2000)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))


def test_weights_count_rows_but_not_pairs_of_copies(pair):
    a, b = pair
    weights = np.array([2.0, 0.0, 1.0] + [0.0] * 20)
    rows = [(0, 0), (0, 1), (2, 2)]  # row, copy
    pairs = [kernel(a[i[0]], a[j[0]]) for i in rows for j in rows if i[0] != j[0]]
    across = np.mean([kernel(a[i], y) for i, _ in rows for y in b])
    of_b = [kernel(b[i], b[j]) for i in range(len(b)) for j in range(len(b)) if i != j]
    assert kernel_distance(a, b, weights) == pytest.approx(np.mean(pairs) + np.mean(of_b) - 2 * across)


def test_gaussian_distance_is_a_mean_over_all_pairs(pair, monkeypatch):
    a, b = pair
    monkeypatch.setattr(kernel_module, "BLOCK", 7)
    mean = lambda s, t: np.mean([np.exp(-np.sum((x - y) ** 2) / 200) for x in s for y in t])  # noqa: E731
    assert gaussian_distance(a, b) == pytest.approx(
        1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b)), rel=1e-5
    )


def test_sliced_distance_is_a_mean_over_directions_and_ranks(pair):
    a, b = pair
    directions = np.array([[1.0, 0, 0, 0, 0, 0], [0, 0, 0.6, 0.8, 0, 0]])
    total = 0.0
    for direction in directions:
        left, right = sorted(a @ direction), sorted(b[:23] @ direction)
        total += sum((x - y) ** 2 for x, y in zip(left, right, strict=True)) / 23
    assert sliced_distance(a, b, directions) == pytest.approx(3 * 6 * total / 2, rel=1e-5)
    assert sliced_distance(a, a) == 0
    # Along every direction a shift moves all samples alike: 3 dim |shift|^2 / dim, on average.
    assert sliced_distance(a + 1, a) == pytest.approx(3 * 6, rel=0.2)


def test_neighborhoods_by_loops(pair):
    generated, real = (x.astype(np.float64) for x in pair)

    def radius(s, i, k):
        return sorted(np.linalg.norm(s[i] - s[j]) for j in range(len(s)) if j != i)[k - 1]

    near = {k: [[np.linalg.norm(g - r) <= radius(real, i, k) for i, r in enumerate(real)] for g in generated]
            for k in (3, 5)}  # fmt: skip
    recalled = [
        any(np.linalg.norm(g - r) <= radius(generated, i, 3) for i, g in enumerate(generated)) for r in real
    ]
    assert precision_recall_density_coverage(*pair) == pytest.approx({
        "precision": np.mean(np.any(near[3], axis=1)),
        "recall": np.mean(recalled),
        "density": np.sum(near[5]) / 5 / len(generated),
        "coverage": np.mean(np.any(near[5], axis=0)),
    })  # fmt: skip
    with pytest.raises(ValueError, match="more than 5 of each"):
        precision_recall_density_coverage(generated[:5], real)


def test_inception_score_is_the_mean_over_splits():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, size=(40, 7)).astype(np.float32)
    sums = ScoreSums.zeros(7)
    update = jax.jit(ScoreSums.update, static_argnums=4)
    for start in range(0, 40, 8):
        place = jnp.arange(start, start + 8)
        sums = update(sums, logits[start : start + 8], place, place < 37, 37)
    p = np.exp(logits.astype(np.float64))[:37]
    p /= p.sum(1, keepdims=True)
    scores = []
    for split in range(10):
        rows = p[split * 37 // 10 : (split + 1) * 37 // 10]
        scores.append(np.exp(np.mean(np.sum(rows * (np.log(rows) - np.log(rows.mean(0))), 1))))
    assert sums.score() == pytest.approx((np.mean(scores), np.std(scores)))


def test_interval_is_around_the_figure_whatever_the_bias_of_resamples():
    low, high = interval(3.0, np.array([5.0, 7.0]))
    assert low + high == pytest.approx(6) and high - low == pytest.approx(2 * 1.96 * np.sqrt(2))
