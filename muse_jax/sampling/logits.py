"""Sampling of tokens from logits: temperature, Gumbel-max, top-k and top-p filters, in float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from muse_jax.nn.heads import LinearLogits
from pallas_kernels.masked_sampling import masked_sampling, sample_logits

# Temperatures below this count as greedy: the noise no longer changes the argmax.
_MIN_TEMPERATURE = 1e-6


def apply_temperature(
    logits: Float[Array, "... vocab"], temperature: Float[Array, ""] | float
) -> Float[Array, "... vocab"]:
    """Divides logits by the temperature, in float32; below 1e-6 it counts as 1e-6, which is greedy."""
    return logits.astype(jnp.float32) / jnp.maximum(temperature, _MIN_TEMPERATURE)


def gumbel_argmax(key: Array, logits: Float[Array, "... vocab"]) -> Int[Array, "..."]:
    """Samples from softmax(logits): the argmax of logits + Gumbel noise of the same shape, int32."""
    logits = logits.astype(jnp.float32)
    return jnp.argmax(logits + jax.random.gumbel(key, logits.shape), axis=-1).astype(jnp.int32)


def sample_with_log_prob(
    key: Array,
    logits: Float[Array, "batch n vocab"] | LinearLogits,
    temperature: Float[Array, ""] | float = 1.0,
) -> tuple[Int[Array, "batch n"], Float[Array, "batch n"]]:
    """Samples tokens from softmax(logits / temperature), with their log-probabilities under that softmax.

    `LinearLogits` are not materialized: the vocabulary is streamed by the implementation of
    `pallas_kernels.masked_sampling` for the platform. An array of logits gives the same tokens, since it gets
    the same noise.

    Args:
      key: a key of `jax.random.key`.
      logits: an array of any leading shape, or `LinearLogits`.
      temperature: 0 or greater; 0 counts as 1e-6, which is greedy. May be traced.

    Returns:
      int32 tokens and float32 log-probabilities.
    """
    if isinstance(logits, LinearLogits):
        return masked_sampling(*logits, key, temperature=temperature)
    return sample_logits(logits, key, temperature=temperature)


def top_k_filter(logits: Float[Array, "... vocab"], k: int) -> Float[Array, "... vocab"]:
    """Keeps the `k` largest logits and any that tie with the k-th; the others become -inf.

    Raises:
      ValueError: if `k`, which is static, is below 1.
    """
    if k < 1:
        raise ValueError(f"top_k must keep at least 1 token, given {k}.")
    threshold = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
    return jnp.where(logits >= threshold, logits, -jnp.inf)


def top_p_filter(logits: Float[Array, "... vocab"], p: Float[Array, ""] | float) -> Float[Array, "... vocab"]:
    """Nucleus filter (Holtzman et al., 2020): keeps the fewest most probable tokens that sum to at least `p`.

    The other logits become -inf. `p` in (0, 1] may be traced. The most probable token is always kept.
    """
    descending = jnp.sort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(descending.astype(jnp.float32), axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = (before < p).at[..., 0].set(True)
    threshold = jnp.min(jnp.where(kept, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= threshold, logits, -jnp.inf)
