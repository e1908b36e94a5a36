"""K-means clusters of a codebook, for cluster sampling (CogView2, section 3.1)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from muse_jax.tokenizers.kmeans import kmeans
from muse_jax.tokenizers.quantizer import squared_distances
from muse_jax.tokenizers.vqgan import VQGAN

FILE = "clusters.npz"
"""File name of the clusters, beside the tokenizer's other files."""
# Codebooks stored in half precision assign a few codes to another cluster.
_AGREEMENT = 0.98


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of a codebook.

    Fields:
      of_code: int32 (codes,), cluster of each code.
      centres: float32 (clusters, dim).
    """

    of_code: np.ndarray
    centres: np.ndarray

    def __len__(self) -> int:
        return len(self.centres)

    def save(self, file: str | Path) -> None:
        """Writes one .npz file atomically."""
        file = Path(file)
        unfinished = file.with_name(f".{file.stem}.unfinished.npz")
        np.savez(unfinished, of_code=self.of_code, centres=self.centres)
        unfinished.replace(file)


def cluster_codebook(codebook: Float[Array, "codes dim"], num_clusters: int, seed: int = 0) -> Clusters:
    """Clusters the rows of a codebook by K-means.

    Args:
      num_clusters: at least 1 and below the number of codes.
      seed: of the initial centres.

    Raises:
      ValueError: for a number of clusters out of range.
    """
    if not 1 <= num_clusters < len(codebook):
        raise ValueError(
            f"num_clusters is {num_clusters}, but {len(codebook)} codes allow 1 to {len(codebook) - 1}."
        )
    centres, of_code = kmeans(jnp.asarray(codebook), num_clusters, jax.random.key(seed))
    return Clusters(np.asarray(of_code), np.asarray(centres))


def load_clusters(file: str | Path, codebook: Float[Array, "codes dim"]) -> Clusters:
    """Reads the clusters in `file` and checks that they belong to `codebook`.

    Raises:
      ValueError: if the file is missing, damaged, or holds clusters of another codebook.
    """
    mend = "make them with experiments.cluster_codebook."
    if not Path(file).is_file():
        raise ValueError(f"There are no clusters in {file}: {mend}")
    try:
        with np.load(file) as stored:
            clusters = Clusters(stored["of_code"], stored["centres"])
        shapes = (clusters.of_code.shape, clusters.centres.shape[1])
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ValueError(f"The clusters in {file} are damaged: {mend}") from error
    if shapes != ((len(codebook),), codebook.shape[1]):
        raise ValueError(
            f"The clusters in {file} are of {len(clusters.of_code)} codes of width "
            f"{clusters.centres.shape[1]}, but this tokenizer has {len(codebook)} of {codebook.shape[1]}: "
            + mend
        )
    distances = squared_distances(jnp.asarray(codebook), jnp.asarray(clusters.centres))
    if np.mean(np.argmin(np.asarray(distances), axis=1) == clusters.of_code) < _AGREEMENT:
        raise ValueError(f"The clusters in {file} are those of another codebook: {mend}")
    return clusters


def codebook_rows(tokenizer: VQGAN, params: Any) -> Float[Array, "codes dim"]:
    """Vectors of all codes of a tokenizer, normalized if it compares unit vectors.

    The tokenizer has one code for each position.
    """
    ids = jnp.arange(tokenizer.codebook_size)
    rows: Any = tokenizer.apply(
        {"params": params}, ids, method=lambda module, ids: module.quantizer.lookup(ids)
    )
    return rows
