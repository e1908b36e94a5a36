"""Arithmetic that the kernels share: matrix products in float32, and a finite minus infinity."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

NEGATIVE = -1e30
"""Stands for minus infinity in float32, where differences of two must not be NaN."""

# Dimension numbers of products of matrices: which axis of the left and of the right factor is contracted.
ROWS_BY_ROWS = (((1,), (1,)), ((), ()))
COLUMNS_BY_ROWS = (((1,), (0,)), ((), ()))
COLUMNS_BY_COLUMNS = (((0,), (0,)), ((), ()))


def product(left: Array, right: Array, dimensions=ROWS_BY_ROWS) -> Float[Array, "rows columns"]:
    """Matrix product with a float32 result.

    Float32 factors are not rounded to bfloat16 or TensorFloat-32 on any platform.
    """
    precision = lax.Precision.HIGHEST if left.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(left, right, dimensions, precision=precision, preferred_element_type=jnp.float32)
