"""Kernel distance of two sets of features: the KID (Binkowski et al., ICLR 2018)."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

BLOCK = 2048


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
