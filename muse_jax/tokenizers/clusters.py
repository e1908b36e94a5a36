"""Groups of alike codes: K-means clusters of a codebook, for cluster sampling (CogView2, section 3.1)."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from muse_jax.tokenizers.quantizer import squared_distances
from muse_jax.tokenizers.vqgan import VQGAN

FILE = "clusters.npz"
"""Its name beside a tokenizer's other files."""
# Weights that were stored in half precision put a few codes on the other side of a border.
_AGREEMENT = 0.98


@functools.partial(jax.jit, static_argnums=(1, 3))
def kmeans(
    vectors: Float[Array, "n dim"], num_clusters: int, key: Array, num_steps: int = 50
) -> tuple[Float[Array, "clusters dim"], Int[Array, "n"]]:
    """Lloyd's K-means from k-means++ seeds: centres, and the nearest centre of each vector.

    A cluster that loses all its vectors keeps its centre.
    """
    seed_key, first_key = jax.random.split(key)
    centres = (
        jnp.zeros((num_clusters, vectors.shape[1]))
        .at[0]
        .set(vectors[jax.random.randint(first_key, (), 0, len(vectors))])
    )

    def seed(index: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        centres, nearest = state
        newest = squared_distances(vectors, centres[index - 1][None])[:, 0]
        nearest = jnp.minimum(nearest, jnp.maximum(newest, 0))
        # A draw in proportion to the squared distance; vectors that are a centre already are never drawn.
        noise = jax.random.gumbel(jax.random.fold_in(seed_key, index), nearest.shape)
        return centres.at[index].set(vectors[jnp.argmax(jnp.log(nearest) + noise)]), nearest

    centres, _ = jax.lax.fori_loop(1, num_clusters, seed, (centres, jnp.full(len(vectors), jnp.inf)))

    def move(_: Array, centres: Array) -> Array:
        nearest = jnp.argmin(squared_distances(vectors, centres), axis=1)
        counts = jnp.bincount(nearest, length=num_clusters)[:, None]
        sums = jax.ops.segment_sum(vectors, nearest, num_segments=num_clusters)
        return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), centres)

    centres = jax.lax.fori_loop(0, num_steps, move, centres)
    return centres, jnp.argmin(squared_distances(vectors, centres), axis=1).astype(jnp.int32)


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
