"""Cluster sampling: first a cluster of similar codes, then a code within it (CogView2, section 3.1).

Similar codes share their probability among them, so that top-k over single codes would drop whole groups of
them. The clusters are K-means clusters of the codebook (`muse_jax.tokenizers.clusters`).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from muse_jax.sampling.logits import apply_temperature, gumbel_argmax, top_k_filter


def cluster_log_probs(
    logits: Float[Array, "... codes"], clusters: Int[Array, " codes"], num_clusters: int
) -> Float[Array, "... clusters"]:
    """Log-probability of each cluster, the sum over its codes; -inf for an empty cluster."""
    probs = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    by_code = jnp.moveaxis(probs, -1, 0)
    summed = jax.ops.segment_sum(by_code, clusters, num_segments=num_clusters)
    return jnp.log(jnp.moveaxis(summed, 0, -1))


def sample_by_cluster(
    key: Array,
    logits: Float[Array, "... codes"],
    clusters: Int[Array, " codes"],
    *,
    num_clusters: int,
    top_clusters: int,
    inner_temperature: Float[Array, ""] | float,
) -> Int[Array, "..."]:
    """Samples one of the `top_clusters` most probable clusters, then one of its codes.

    Args:
      key: a key of `jax.random.key`.
      logits: with the temperature already applied; -inf excludes a code.
      clusters: cluster of each code, in [0, num_clusters).
      num_clusters: number of clusters, static.
      top_clusters: clusters kept, 1 to num_clusters, static; num_clusters is no restriction.
      inner_temperature: divides the logits once more for the draw within the cluster; 0 is greedy.

    Returns:
      int32 codes.
    """
    outer_key, inner_key = jax.random.split(key)
    log_probs = cluster_log_probs(logits, clusters, num_clusters)
    cluster = gumbel_argmax(outer_key, top_k_filter(log_probs, top_clusters))
    inside = jnp.where(clusters == cluster[..., None], logits, -jnp.inf)
    return gumbel_argmax(inner_key, apply_temperature(inside, inner_temperature))
