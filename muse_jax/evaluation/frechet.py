"""Fréchet distance of two sets of features (Heusel et al., NeurIPS 2017, eq. 6), from streamed moments.

On EfficientNet-Lite0 features it is named FD-EfficientNetLite0. It is not the FID: that name belongs to one
Inception network, and the figures cannot be compared.
"""

import dataclasses
import warnings

import numpy as np
from jaxtyping import Float

MIN_SAMPLES = 2000


@dataclasses.dataclass
class FeatureMoments:
    """Mean and covariance of features that arrive in batches, in float64 (Chan et al. 1979)."""

    count: int = 0
    mean: np.ndarray | None = None
    scatter: np.ndarray | None = None

    def update(self, features: Float[np.ndarray, "batch dim"]) -> "FeatureMoments":
        features = np.asarray(features, np.float64)
        if features.ndim != 2:
            raise ValueError(f"features have shape {features.shape}; they must be (batch, dim).")
        if not len(features):
            return self
        mean = features.mean(0)
        centred = features - mean
        scatter = centred.T @ centred
        if self.mean is None or self.scatter is None:
            self.count, self.mean, self.scatter = len(features), mean, scatter
            return self
        if mean.shape != self.mean.shape:
            raise ValueError(f"features have {len(mean)} dimensions where {len(self.mean)} came before.")
        total = self.count + len(features)
        shift = mean - self.mean
        self.scatter = self.scatter + scatter + np.outer(shift, shift) * self.count * len(features) / total
        self.mean = self.mean + shift * len(features) / total
        self.count = total
        return self

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, unbiased covariance)."""
        if self.count < 2 or self.mean is None or self.scatter is None:
            raise ValueError(f"A covariance needs at least 2 samples; {self.count} were given.")
        return self.mean, self.scatter / (self.count - 1)


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


def fd_efficientnet_lite0(a: FeatureMoments, b: FeatureMoments) -> float:
    """FD-EfficientNetLite0 of two sets of features; warns where either has under 2,000 samples.

    With few samples the distance is biased upwards, and compares only with figures of the same counts.
    """
    if min(a.count, b.count) < MIN_SAMPLES:
        warnings.warn(
            f"FD-EfficientNetLite0 of {a.count} and {b.count} samples is biased upwards; use at least "
            f"{MIN_SAMPLES} of each.",
            stacklevel=2,
        )
    return frechet_distance(*a.statistics(), *b.statistics())
