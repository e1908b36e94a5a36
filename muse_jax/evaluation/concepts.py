"""Recognition of an image's concept, by retrieval, and of its style, by a linear classifier."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def concept_ranks(
    queries: Float[np.ndarray, "count dim"],
    concepts: Sequence[str],
    gallery: Float[np.ndarray, "images dim"],
    gallery_concepts: Sequence[str],
    exclude: Sequence[int | None] | None = None,
) -> np.ndarray:
    """Rank of the right concept for each query, 0 the best.

    A concept's score is the highest cosine similarity of the query with any real image of it; the rank is
    the number of other concepts that score as high or higher, so that ties count against the query.

    Args:
      queries: features of the images to recognize.
      concepts: the right concept of each query.
      gallery: features of real images.
      gallery_concepts: the concept of each of them.
      exclude: for each query the row of a gallery image to leave out, such as itself, or None.

    Returns:
      int64 `(count,)`. The number of concepts where all images of the right one are left out.

    Raises:
      ValueError: a query's concept is not in the gallery, or lengths disagree.
    """
    if len(queries) != len(concepts) or len(gallery) != len(gallery_concepts):
        raise ValueError(
            f"{len(queries)} queries with {len(concepts)} concepts and {len(gallery)} gallery images with "
            f"{len(gallery_concepts)} concepts: each image needs one concept."
        )
    names, members = np.unique(np.asarray(gallery_concepts), return_inverse=True)
    right = np.searchsorted(names, np.asarray(concepts))
    known = (right < len(names)) & (names[np.minimum(right, len(names) - 1)] == np.asarray(concepts))
    if not known.all():
        missing = concepts[int(np.flatnonzero(~known)[0])]
        raise ValueError(f"The concept {missing!r} has no real image in the gallery.")
    similarity = _unit(queries) @ _unit(gallery).T
    for row, column in enumerate(exclude or ()):
        if column is not None:
            similarity[row, column] = -np.inf
    order = np.argsort(members, kind="stable")
    starts = np.searchsorted(members[order], np.arange(len(names)))
    scores = np.maximum.reduceat(similarity[:, order], starts, axis=1)
    own = np.take_along_axis(scores, right[:, None], axis=1)
    ranks = np.sum(scores >= own, axis=1) - 1
    return np.where(np.isneginf(own[:, 0]), len(names), ranks)


def top_k(ranks: np.ndarray, k: int) -> float:
    """Share of queries whose right concept is among the first `k`."""
    return float(np.mean(np.asarray(ranks) < k))


@dataclasses.dataclass(frozen=True)
class StyleClassifier:
    """Linear classifier of an image's style: ridge regression to one-hot targets, features standardized."""

    names: tuple[str, ...]
    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray

    @classmethod
    def fit(
        cls, features: Float[np.ndarray, "count dim"], styles: Sequence[str], ridge: float = 0.001
    ) -> "StyleClassifier":
        """Fits to real images; `ridge` is the penalty in units of a feature's variance.

        Raises:
          ValueError: fewer than two styles.
        """
        names, targets = np.unique(np.asarray(styles), return_inverse=True)
        if len(names) < 2:
            raise ValueError(f"The images have {len(names)} style; a classifier needs at least 2.")
        features = np.asarray(features, np.float64)
        mean, scale = features.mean(0), features.std(0) + 1e-6
        # The constant column carries the styles' frequencies.
        x = np.concatenate([(features - mean) / scale, np.ones((len(features), 1))], axis=1)
        gram = x.T @ x / len(x) + ridge * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, x.T @ np.eye(len(names))[targets] / len(x))
        return cls(tuple(names.tolist()), mean, scale, weights)

    def predict(self, features: Float[np.ndarray, "count dim"]) -> np.ndarray:
        """The style of each image, an array of str."""
        x = (np.asarray(features, np.float64) - self.mean) / self.scale
        return np.asarray(self.names)[np.argmax(x @ self.weights[:-1] + self.weights[-1], axis=1)]

    def accuracy(self, features: Float[np.ndarray, "count dim"], styles: Sequence[str]) -> float:
        return float(np.mean(self.predict(features) == np.asarray(styles)))


def nearest_labels(
    queries: Float[np.ndarray, "count dim"], gallery: Float[np.ndarray, "images dim"], labels: Sequence[str]
) -> np.ndarray:
    """The label of each query's nearest gallery image by cosine similarity."""
    return np.asarray(labels)[np.argmax(_unit(queries) @ _unit(gallery).T, axis=1)]
