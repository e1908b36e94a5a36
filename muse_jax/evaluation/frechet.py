"""Fréchet distance of two distributions of features (Heusel et al., NeurIPS 2017, eq. 6).

On Inception's features it is the FID. On those of another network it must not be called so, since the figures
cannot be compared.
"""

import numpy as np
from jaxtyping import Float

MIN_SAMPLES = 2000


def frechet_distance(
    mean_a: Float[np.ndarray, " dim"],
    cov_a: Float[np.ndarray, "dim dim"],
    mean_b: Float[np.ndarray, " dim"],
    cov_b: Float[np.ndarray, "dim dim"],
) -> float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)), at least 0.

    The trace of the root is the sum of singular values of cov_a^(1/2) cov_b^(1/2): symmetric eigenproblems
    only, so that covariances short of full rank (fewer samples than dimensions) need no correction.
    """
    cross = np.linalg.svd(_root(cov_a) @ _root(cov_b), compute_uv=False).sum()
    distance = np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    return max(float(distance), 0.0)


def _root(cov: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(cov)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
