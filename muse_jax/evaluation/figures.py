"""Figures of merit from features of generated images and reference statistics."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from muse_jax.evaluation.embedding import Sums
from muse_jax.evaluation.frechet import frechet_distance
from muse_jax.evaluation.kernel_distance import gaussian_distance, kernel_distance
from muse_jax.evaluation.neighborhoods import precision_recall_density_coverage
from muse_jax.evaluation.reference import Reference
from muse_jax.evaluation.sliced_distance import sliced_distance

METRICS = ("fid", "sfid", "kid", "mind", "prdc", "inception_score", "cmmd")
NEED_FEATURES = {"kid", "mind", "prdc", "cmmd"}
MAX_NEIGHBORHOODS = 10_000  # samples for prdc, whose cost is their square


def check_reference(file: str, reference: Reference, metrics: Sequence[str], per: str) -> None:
    """Checks that the reference has all statistics that the metrics, and figures for each group, need.

    Raises:
      ValueError: it does not.
    """
    needing = [metric for metric in metrics if metric in NEED_FEATURES]
    if needing and not len(reference.features):
        raise ValueError(
            f"{file} has no features, which {needing[0]} needs: make it with experiments.prepare_reference."
        )
    if "sfid" in metrics and reference.spatial is None:
        raise ValueError(
            f"{file} has no statistics mu_s and sigma_s of spatial features, which sfid needs: make it with "
            "experiments.prepare_reference."
        )
    if per and reference.provenance.get("per") != per:
        raise ValueError(
            f"{file} has no statistics for each {per}: make it with experiments.prepare_reference and "
            f"--per={per}."
        )


def figures(
    metrics: Sequence[str],
    sums: Sums,
    features: np.ndarray,
    reference: Reference | None,
    bootstrap: int,
    seed: int,
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Figures by name, and their 95 % intervals.

    Args:
      metrics: some of `METRICS`.
      sums: of all generated images.
      features: of all generated images; no rows if neither the metrics nor the bootstrap need them.
      reference: None if the metrics need none.
      bootstrap: resamples for intervals of fid, kid and mind; 0: none.
      seed: of the resamples.
    """
    scores: dict[str, float] = {}
    resampled: dict[str, Callable[[np.ndarray], float]] = {}
    if "inception_score" in metrics:
        scores["inception_score"], scores["inception_score_std"] = sums.scores.score()
    if reference is None:
        return scores, {}
    if "fid" in metrics:
        mean, covariance, _ = sums.moments.statistics()
        real = reference.mean, reference.covariance
        scores["fid"] = frechet_distance(mean, covariance, *real)
        resampled["fid"] = lambda rows: frechet_distance(*_weighted_moments(features, rows), *real)
    if "sfid" in metrics and sums.spatial is not None and reference.spatial is not None:
        mean, covariance, _ = sums.spatial.statistics()
        scores["sfid"] = frechet_distance(mean, covariance, *reference.spatial)
    if "kid" in metrics:
        scores["kid"] = kernel_distance(features, reference.features)
        resampled["kid"] = lambda rows: kernel_distance(features, reference.features, _counts(features, rows))
    if "mind" in metrics:
        scores["mind"] = sliced_distance(features, reference.features)
        resampled["mind"] = lambda rows: sliced_distance(features[rows], reference.features)
    if "cmmd" in metrics:
        scores["cmmd"] = gaussian_distance(features, reference.features)
    if "prdc" in metrics:
        few = features[:MAX_NEIGHBORHOODS], reference.features[:MAX_NEIGHBORHOODS]
        scores |= precision_recall_density_coverage(*few)
    if not bootstrap:
        return scores, {}
    rng = np.random.default_rng(seed)
    draws = [np.sort(rng.integers(len(features), size=len(features))) for _ in range(bootstrap)]
    return scores, {
        name: interval(scores[name], np.array([function(rows) for rows in draws]))
        for name, function in resampled.items()
    }


def group_figures(sums: Sums, reference: Reference, least: int) -> tuple[dict[str, float], dict[str, int]]:
    """Fréchet distance of each group of at least `least` samples, and the number of samples of all groups."""
    statistics = {name: group.statistics() for name, group in sums.groups.items() if group.count >= least}
    scores = {
        name: frechet_distance(mean, covariance, *reference.groups[name])
        for name, (mean, covariance, _) in statistics.items()
    }
    return scores, {name: int(group.count) for name, group in sums.groups.items()}


def interval(figure: float, resamples: np.ndarray) -> tuple[float, float]:
    """95 % interval around a figure from those of bootstrap resamples.

    Only their spread is used: copies of samples bias distances upwards.
    """
    spread = 1.96 * float(np.std(resamples, ddof=1))
    return figure - spread, figure + spread


def _counts(features: Any, rows: np.ndarray) -> np.ndarray:
    return np.bincount(rows, minlength=len(features)).astype(np.float64)


def _weighted_moments(features: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weights = _counts(features, rows)
    x = np.asarray(features, np.float64)
    mean = weights @ x / weights.sum()
    centred = x - mean
    return mean, (centred * weights[:, None]).T @ centred / (weights.sum() - 1)
