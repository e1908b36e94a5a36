"""Layouts of arrays inside a program, by the logical names of their axes."""

import functools
import math

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Shaped

Names = tuple[str | None, ...]


def constrain(x: Shaped[Array, "..."], names: Names) -> Shaped[Array, "..."]:
    """`x` with the layout that the rules of `nn.logical_axis_rules` give the axes called `names`.

    An axis whose size the mesh does not divide stays whole. Without rules or a mesh, `x` as it is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not nn.get_logical_axis_rules():
        return x
    axes = nn.logical_to_mesh_axes(names) or ()
    fitting = [axis if axis and size % _parts(axis, mesh) == 0 else None for axis, size in zip(axes, x.shape)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*fitting))


def _parts(axis: str | tuple[str, ...], mesh: jax.sharding.AbstractMesh) -> int:
    return math.prod(mesh.shape[name] for name in ((axis,) if isinstance(axis, str) else axis))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gather(weight: Float[Array, "..."], names: Names) -> Float[Array, "..."]:
    """`weight`, whose logical axes are `names`, whole along "embed"; its gradient comes back in shards.

    This is what makes "embed" on the mesh's fsdp axis fully sharded data parallelism (Rajbhandari et al.,
    1910.02054). Left to itself, the compiler weighs each product's weight against the activations of all
    devices; where these are few it gathers them instead, and what a device receives grows with the pod.
    """
    return constrain(weight, tuple(None if name == "embed" else name for name in names))


def _backward(names: Names, _: None, gradient: Array) -> tuple[Array]:
    return (constrain(gradient, names),)


gather.defvjp(lambda weight, names: (gather(weight, names), None), _backward)
