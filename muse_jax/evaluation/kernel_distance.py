"""Kernel distances of two sets of features: KID (Binkowski et al., 2018), CMMD (Jayasumana et al., 2024).

Both estimate the squared maximum mean discrepancy of two distributions.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

BLOCK = 2048
_SIGMA = 10


def kernel_distance(
    a: Float[np.ndarray, "n dim"],
    b: Float[np.ndarray, "m dim"],
    weights_a: Float[np.ndarray, " n"] | None = None,
) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy, kernel (x.y / dim + 1)^3; may be negative.

    All pairs count, where other implementations average over random subsets.

    Args:
      weights_a: how often each row of `a` counts, for the bootstrap; once by default. Pairs of copies of one
        row do not count.
    """
    weights = np.ones(len(a)) if weights_a is None else weights_a
    ones = np.ones(len(b))
    return (
        _within(a, weights) + _within(b, ones) - 2 * _sum(a, b, weights, ones) / (weights.sum() * ones.sum())
    )


def gaussian_distance(a: Float[np.ndarray, "n dim"], b: Float[np.ndarray, "m dim"]) -> float:
    """CMMD of unit vectors: 1,000 times the biased estimate with a Gaussian kernel of sigma 10."""
    within = _gaussian_mean(a, a) + _gaussian_mean(b, b)
    return 1000 * (within - 2 * _gaussian_mean(a, b))


def _gaussian_mean(x: np.ndarray, y: np.ndarray) -> float:
    total = 0.0
    for _, rows in _blocks(x):
        for _, columns in _blocks(y):
            squares = np.sum(rows**2, 1)[:, None] + np.sum(columns**2, 1) - 2 * rows @ columns.T
            total += float(np.sum(np.exp(-squares / (2 * _SIGMA**2))))
    return total / (len(x) * len(y))


def _within(x: np.ndarray, weights: np.ndarray) -> float:
    """Mean of the kernel over pairs of different rows."""
    diagonal = (np.einsum("nd,nd->n", x, x, dtype=np.float64) / x.shape[1] + 1) ** 3
    pairs = weights.sum() ** 2 - np.sum(weights**2)
    return (_sum(x, x, weights, weights) - np.sum(weights**2 * diagonal)) / pairs


def _sum(x: np.ndarray, y: np.ndarray, weights_x: np.ndarray, weights_y: np.ndarray) -> float:
    total = 0.0
    for i, rows in _blocks(x):
        for j, columns in _blocks(y):
            kernel = (rows @ columns.T / x.shape[1] + 1) ** 3
            total += float(weights_x[i] @ kernel @ weights_y[j])
    return total


def _blocks(x: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(x), BLOCK):
        block = slice(start, start + BLOCK)
        yield block, np.asarray(x[block], np.float64)
