"""K-means clustering, for the initial codebook and for clusters of its codes."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from muse_jax.tokenizers.quantizer import squared_distances

_BLOCK = 1024  # vectors per step; all distances at once would be an array (vectors, clusters)


def nearest_centres(
    vectors: Float[Array, "n dim"], centres: Float[Array, "clusters dim"]
) -> Int[Array, " n"]:
    """Index of the nearest centre of each vector, int32."""
    nearest = lambda vector: jnp.argmin(squared_distances(vector[None], centres)[0])  # noqa: E731
    return jax.lax.map(nearest, vectors, batch_size=_BLOCK).astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=(1, 3))
def kmeans(
    vectors: Float[Array, "n dim"], num_clusters: int, key: Array, num_steps: int = 50
) -> tuple[Float[Array, "clusters dim"], Int[Array, " n"]]:
    """Lloyd's algorithm with k-means++ seeding (Arthur and Vassilvitskii, 2007).

    Args:
      num_clusters: number of centres, static.
      key: a key of `jax.random.key`.
      num_steps: updates of the centres, static.

    Returns:
      the centres, and the index of the nearest centre of each vector. An empty cluster keeps its centre.
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
        # Samples in proportion to the squared distance; vectors that are a centre already are never chosen.
        noise = jax.random.gumbel(jax.random.fold_in(seed_key, index), nearest.shape)
        return centres.at[index].set(vectors[jnp.argmax(jnp.log(nearest) + noise)]), nearest

    centres, _ = jax.lax.fori_loop(1, num_clusters, seed, (centres, jnp.full(len(vectors), jnp.inf)))

    def move(_: Array, centres: Array) -> Array:
        nearest = nearest_centres(vectors, centres)
        counts = jnp.bincount(nearest, length=num_clusters)[:, None]
        sums = jax.ops.segment_sum(vectors, nearest, num_segments=num_clusters)
        return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), centres)

    centres = jax.lax.fori_loop(0, num_steps, move, centres)
    return centres, nearest_centres(vectors, centres)
