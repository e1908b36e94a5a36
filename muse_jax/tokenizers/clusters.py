"""Groups of alike codes: K-means clusters of a codebook, for cluster sampling (CogView2, section 3.1)."""

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
"""Its name beside a tokenizer's other files."""
# Weights that were stored in half precision put a few codes on the other side of a border.
_AGREEMENT = 0.98


@dataclass(frozen=True, eq=False)
class Clusters:
    """The clusters of a codebook: of each code its cluster, and the centres that say so."""

    of_code: np.ndarray
    centres: np.ndarray

    def __len__(self) -> int:
        return len(self.centres)

    def save(self, file: str | Path) -> None:
        """Writes one .npz through a temporary name."""
        file = Path(file)
        unfinished = file.with_name(f".{file.stem}.unfinished.npz")
        np.savez(unfinished, of_code=self.of_code, centres=self.centres)
        unfinished.replace(file)


def cluster_codebook(codebook: Float[Array, "codes dim"], num_clusters: int, seed: int = 0) -> Clusters:
    """K-means clusters of a codebook's rows.

    Raises:
      ValueError: not fewer clusters than codes.
    """
    if not 1 <= num_clusters < len(codebook):
        raise ValueError(
            f"{num_clusters} clusters of {len(codebook)} codes: ask for at least 1, and fewer than "
            "there are codes."
        )
    centres, of_code = kmeans(jnp.asarray(codebook), num_clusters, jax.random.key(seed))
    return Clusters(np.asarray(of_code), np.asarray(centres))


def load_clusters(file: str | Path, codebook: Float[Array, "codes dim"]) -> Clusters:
    """The clusters in `file`, which must be those of `codebook`.

    Raises:
      ValueError: one sentence, for a file that is missing, damaged or of another codebook.
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
    """The codebook of a tokenizer as it is compared and looked up."""
    rows: Any = tokenizer.apply({"params": params}, method=lambda module: module.quantizer.rows())
    return rows
