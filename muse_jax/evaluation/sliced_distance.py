"""Monge Inception Distance, MIND (Berthet et al., arXiv 2605.06797): a sliced Wasserstein distance."""

import numpy as np
from jaxtyping import Float

DIRECTIONS = 1000
BLOCK = 100


def sliced_distance(
    a: Float[np.ndarray, "n dim"],
    b: Float[np.ndarray, "m dim"],
    directions: Float[np.ndarray, "count dim"] | None = None,
) -> float:
    """3 dim times the mean, over random directions, of the squared 2-Wasserstein distance along them.

    The sets are compared at the size of the smaller one: the first rows of the larger one.

    Args:
      directions: unit vectors; by default 1,000, the same at each call.
    """
    if directions is None:
        directions = np.random.default_rng(0).normal(size=(DIRECTIONS, a.shape[1]))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    count, total = min(len(a), len(b)), 0.0
    a, b = (np.asarray(x[:count], np.float32) for x in (a, b))
    for start in range(0, len(directions), BLOCK):
        some = directions[start : start + BLOCK].astype(np.float32).T
        along_a, along_b = (np.sort(x @ some, axis=0).astype(np.float64) for x in (a, b))
        total += float(np.sum((along_a - along_b) ** 2))
    return 3 * a.shape[1] * total / (count * len(directions))
