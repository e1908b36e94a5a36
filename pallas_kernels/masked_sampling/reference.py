"""Reference implementation: the argmax of materialized logits plus noise."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from pallas_kernels.masked_sampling.gumbel import gumbel
from pallas_kernels.numerics import product


def sample(
    hidden: Float[Array, "rows width"],
    table: Float[Array, "vocab width"],
    bias: Float[Array, " vocab"],
    seed: UInt32[Array, "2"],
    temperature: Float[Array, ""],
) -> tuple[Int[Array, " rows"], Float[Array, " rows"]]:
    """Samples a token for each row, with its log-probability."""
    scaled = (product(hidden, table) + bias) / temperature
    token = jnp.argmax(scaled + gumbel(seed, *scaled.shape), axis=-1).astype(jnp.int32)
    log_probs = jax.nn.log_softmax(scaled, axis=-1)
    return token, jnp.take_along_axis(log_probs, token[:, None], axis=-1)[:, 0]
