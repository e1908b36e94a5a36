"""Makes the logits and the noise, and takes the argmax of their sum: the truth for the other forms."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from pallas_kernels.masked_sampling.noise import gumbel


def multiply(
    hidden: Float[Array, "rows width"], table: Float[Array, "vocab width"]
) -> Float[Array, "rows vocab"]:
    """`hidden @ table.T` in float32; float32 factors are not rounded on the way, on any platform."""
    precision = jax.lax.Precision.HIGHEST if hidden.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(
        hidden, table, (((1,), (1,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )


def sample(
    hidden: Float[Array, "rows width"],
    table: Float[Array, "vocab width"],
    bias: Float[Array, " vocab"],
    seed: UInt32[Array, "2"],
    temperature: Float[Array, ""],
) -> tuple[Int[Array, " rows"], Float[Array, " rows"]]:
    """A token of each row, and its log-probability."""
    scaled = (multiply(hidden, table) + bias) / temperature
    token = jnp.argmax(scaled + gumbel(seed, *scaled.shape), axis=-1).astype(jnp.int32)
    log_probs = jax.nn.log_softmax(scaled, axis=-1)
    return token, jnp.take_along_axis(log_probs, token[:, None], axis=-1)[:, 0]
