"""Drawing a token from logits: temperature, Gumbel-max, and filters. All in float32, all pure."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from muse_jax.nn.heads import LinearLogits
from pallas_kernels.masked_sampling import masked_sampling, sample_logits

# Below this a temperature counts as zero: the noise no longer changes which logit is the greatest.
_LEAST_TEMPERATURE = 1e-6


def apply_temperature(
    logits: Float[Array, "... vocab"], temperature: Float[Array, ""] | float
) -> Float[Array, "... vocab"]:
    """Logits / temperature in float32; a temperature of 0 is taken as 1e-6, which makes sampling greedy."""
    return logits.astype(jnp.float32) / jnp.maximum(temperature, _LEAST_TEMPERATURE)


def gumbel_argmax(key: Array, logits: Float[Array, "... vocab"]) -> Int[Array, "..."]:
    """A draw from softmax(logits): the argmax of logits + Gumbel noise of the same shape."""
    logits = logits.astype(jnp.float32)
    return jnp.argmax(logits + jax.random.gumbel(key, logits.shape), axis=-1).astype(jnp.int32)


def sample_with_log_prob(
    key: Array,
    logits: Float[Array, "batch n vocab"] | LinearLogits,
    temperature: Float[Array, ""] | float = 1.0,
) -> tuple[Int[Array, "batch n"], Float[Array, "batch n"]]:
    """Draw tokens from softmax(logits / temperature) and return them with log p(token) under that softmax.

    `LinearLogits` are never made: the vocabulary is streamed, by the form of the kernel that fits the
    platform (`pallas_kernels.masked_sampling`). Logits that are there, of any leading shape, are drawn from
    with the same noise. A temperature of 0 is taken as 1e-6, which is greedy.
    """
    if isinstance(logits, LinearLogits):
        return masked_sampling(*logits, key, temperature=temperature)
    return sample_logits(logits, key, temperature=temperature)


def top_k_filter(logits: Float[Array, "... vocab"], k: int) -> Float[Array, "... vocab"]:
    """Keep the `k` greatest logits (and any equal to the k-th), -inf elsewhere. `k` is static, at least 1."""
    if k < 1:
        raise ValueError(f"top_k must keep at least 1 token, given {k}.")
    threshold = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
    return jnp.where(logits >= threshold, logits, -jnp.inf)


def top_p_filter(logits: Float[Array, "... vocab"], p: Float[Array, ""] | float) -> Float[Array, "... vocab"]:
    """Keep the fewest most probable tokens whose probabilities sum to at least `p`, -inf elsewhere.

    `p` in (0, 1] may be traced. The most probable token always stays.
    """
    descending = jnp.sort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(descending.astype(jnp.float32), axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = (before < p).at[..., 0].set(True)
    threshold = jnp.min(jnp.where(kept, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= threshold, logits, -jnp.inf)
