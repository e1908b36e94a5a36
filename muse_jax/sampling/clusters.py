"""Cluster sampling: first a group of alike codes, then a code in it (CogView2, section 3.1).

Codes that look the same share their probability, so that top-k over single codes cuts off whole looks. The
groups are K-means clusters of the codebook (`muse_jax.tokenizers.clusters`).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from muse_jax.sampling.logits import apply_temperature, gumbel_argmax, top_k_filter


def cluster_log_probs(
    logits: Float[Array, "... codes"], clusters: Int[Array, " codes"], num_clusters: int
) -> Float[Array, "... clusters"]:
    """Log of the summed softmax of the codes in each cluster; -inf for one without any."""
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
    """Draws one of the `top_clusters` most probable clusters, then a code of it.

    Args:
      logits: with their temperature applied; -inf excludes a code.
      clusters: of each code its cluster, in [0, num_clusters).
      num_clusters, top_clusters: static; as many as there are is no restriction.
      inner_temperature: divides the logits once more for the draw inside the cluster; 0 takes the most
        probable code.
    """
    outer_key, inner_key = jax.random.split(key)
    log_probs = cluster_log_probs(logits, clusters, num_clusters)
    cluster = gumbel_argmax(outer_key, top_k_filter(log_probs, top_clusters))
    inside = jnp.where(clusters == cluster[..., None], logits, -jnp.inf)
    return gumbel_argmax(inner_key, apply_temperature(inside, inner_temperature))
