"""Weights that lie in shards, made whole where they are used."""

import functools

import jax
from flax import linen as nn
from jaxtyping import Array, Float

Names = tuple[str | None, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gather(weight: Float[Array, "..."], names: Names) -> Float[Array, "..."]:
    """`weight`, whose logical axes are `names`, whole along "embed"; its gradient comes back in shards.

    This is what makes "embed" on the mesh's fsdp axis fully sharded data parallelism (Rajbhandari et al.,
    1910.02054). Left to itself, the compiler weighs each product's weight against the activations of all
    devices; where these are few it gathers them instead, and what a device receives grows with the pod.
    """
    return nn.with_logical_constraint(weight, tuple(None if name == "embed" else name for name in names))


def _backward(names: Names, _: None, gradient: Array) -> tuple[Array]:
    return (nn.with_logical_constraint(gradient, names),)


gather.defvjp(lambda weight, names: (gather(weight, names), None), _backward)
