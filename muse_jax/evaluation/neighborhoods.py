"""Precision, recall, density and coverage of generated features.

Precision and recall by Kynkäänniemi et al. (NeurIPS 2019), density and coverage by Naeem et al. (ICML 2020).
A neighborhood is the ball around a sample that reaches to its k-th nearest neighbor in its own set.
"""

import numpy as np
from jaxtyping import Float

BLOCK = 1024
PRECISION_NEIGHBORS, DENSITY_NEIGHBORS = 3, 5


def precision_recall_density_coverage(
    generated: Float[np.ndarray, "n dim"], real: Float[np.ndarray, "m dim"]
) -> dict[str, float]:
    """All four, with k = 3 for precision and recall, and k = 5 for density and coverage.

    precision: fraction of generated samples inside some neighborhood of a real one. recall: fraction of real
    samples inside some neighborhood of a generated one. density: number of neighborhoods of real samples that
    hold a generated one, on average, over k. coverage: fraction of neighborhoods of real samples that hold
    any generated one.

    Raises:
      ValueError: a set with at most k samples.
    """
    if min(len(generated), len(real)) <= DENSITY_NEIGHBORS:
        raise ValueError(
            f"Precision and coverage of {len(generated)} generated and {len(real)} real samples are "
            f"undefined: give more than {DENSITY_NEIGHBORS} of each."
        )
    real_radii = _radii(real, (PRECISION_NEIGHBORS, DENSITY_NEIGHBORS))
    (generated_radii,) = _radii(generated, (PRECISION_NEIGHBORS,))
    inside, counts, nearest = [], [], np.full(len(real), np.inf)
    recalled = np.zeros(len(real), bool)
    for start in range(0, len(generated), BLOCK):
        squares = _squares(generated[start : start + BLOCK], real)
        inside.append((squares <= real_radii[0]).any(axis=1))
        counts.append((squares <= real_radii[1]).sum(axis=1))
        nearest = np.minimum(nearest, squares.min(axis=0))
        recalled |= (squares <= generated_radii[start : start + BLOCK, None]).any(axis=0)
    return {
        "precision": float(np.mean(np.concatenate(inside))),
        "recall": float(np.mean(recalled)),
        "density": float(np.mean(np.concatenate(counts)) / DENSITY_NEIGHBORS),
        "coverage": float(np.mean(nearest <= real_radii[1])),
    }


def _radii(x: np.ndarray, neighbors: tuple[int, ...]) -> list[np.ndarray]:
    """Squared distances of each row to its k-th nearest other row, for each k."""
    radii = []
    for start in range(0, len(x), BLOCK):
        squares = _squares(x[start : start + BLOCK], x)
        radii.append(np.partition(squares, neighbors, axis=1)[:, neighbors])
    return list(np.concatenate(radii).T)


def _squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances of rows of `x` to rows of `y`, float64."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    squares = np.sum(x * x, 1)[:, None] + np.sum(y * y, 1) - 2 * x @ y.T
    return np.maximum(squares, 0)
