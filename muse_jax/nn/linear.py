"""Linear layers without bias, and the initial scale of embeddings."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from muse_jax.sharding.fsdp import gather

EMBED_STD = 0.02
"""Initial standard deviation of token and position embeddings."""


@jax.custom_vjp
def project(x: Float[Array, "... inputs"], kernel: Float[Array, " inputs *outputs"]) -> Float[Array, "..."]:
    """`x @ kernel`, with a gradient that transposes the narrower factor of the kernel's gradient.

    JAX's own gradient always transposes the output's cotangent. XLA on CPU fuses that transpose with whatever
    produces the cotangent and then reads memory with a stride: in a wide layer this took as long as all the
    matrix products of the block. The output axes (parts, heads, ...) are not merged, because a merged axis
    loses its sharding over the heads and XLA would gather it.
    """
    return jnp.tensordot(x, kernel, 1)


def _project_backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    rows = rearrange(x, "... d -> (...) d")
    columns = cotangent.reshape(len(rows), *kernel.shape[1:])
    if rows.shape[-1] <= math.prod(kernel.shape[1:]):
        grad = jnp.tensordot(rows, columns, (0, 0))
    else:
        grad = jnp.moveaxis(jnp.tensordot(columns, rows, (0, 0)), -1, 0)
    outputs = range(1, kernel.ndim)
    back = jnp.tensordot(cotangent, kernel, ([axis - kernel.ndim for axis in outputs], list(outputs)))
    return back, grad


project.defvjp(lambda x, kernel: (project(x, kernel), (x, kernel)), _project_backward)


class Dense(nn.Module):
    """Linear layer without bias from the last axis to one or several axes, as in T5.

    Fields:
      features: sizes of the output axes.
      names: logical names of the kernel's axes, `(input, *outputs)`.
      scale: standard deviation of the initial kernel relative to `inputs ** -0.5`.
      dtype: of the computation; the kernel is float32.
    """

    features: tuple[int, ...]
    names: tuple[str | None, ...]
    scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "..."]:
        inputs = x.shape[-1]
        outputs = math.prod(self.features)
        init = nn.initializers.variance_scaling(self.scale**2, "fan_in", "truncated_normal")

        def flat_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
            return init(key, (inputs, outputs), dtype).reshape(shape)

        partitioned = nn.with_logical_partitioning(flat_init, self.names)
        kernel: Any = self.param("kernel", partitioned, (inputs, *self.features))
        return project(x.astype(self.dtype), gather(kernel.astype(self.dtype), self.names))
