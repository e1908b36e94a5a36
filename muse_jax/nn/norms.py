"""Root-mean-square and layer normalization, computed in float32."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


def rms_normalize(x: Float[Array, "... features"], epsilon: float = 1e-6) -> Float[Array, "... features"]:
    """`x` divided by the root mean square of its last axis, in float32 (Zhang and Sennrich 2019)."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)


class RMSNorm(nn.Module):
    """Root-mean-square normalization of the last axis with a learned scale.

    Fields:
      dtype: of the output; by default that of the input.
      axis_name: logical name of the normalized axis.
      epsilon: added to the mean square.
    """

    dtype: Any = None
    axis_name: str = "embed"
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "... features"]) -> Float[Array, "... features"]:
        ones = nn.with_logical_partitioning(nn.initializers.ones, (self.axis_name,))
        scale: Any = self.param("scale", ones, (x.shape[-1],))
        return (rms_normalize(x, self.epsilon) * scale).astype(self.dtype or x.dtype)


class LayerNorm(nn.Module):
    """Layer normalization with a learned scale and bias.

    Fields:
      scale: the initial scale.
      dtype: of the output.
    """

    scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        constant = nn.initializers.constant(self.scale)
        return nn.LayerNorm(
            epsilon=1e-5,
            dtype=self.dtype,
            scale_init=nn.with_logical_partitioning(constant, ("embed",)),
            bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)),
            name="norm",
        )(x)
