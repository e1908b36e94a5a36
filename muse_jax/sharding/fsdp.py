"""Sharding constraints inside a program, and all-gather of FSDP-sharded weights at the point of use."""

import functools
import math

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Shaped

Names = tuple[str | None, ...]


def constrain(x: Shaped[Array, "..."], names: Names) -> Shaped[Array, "..."]:
    """Constrains the sharding of `x` by the logical `names` of its axes and `nn.logical_axis_rules`.

    An axis whose size the mesh axis does not divide is not sharded. Without rules or a mesh, `x` is returned
    unchanged.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not nn.get_logical_axis_rules():
        return x
    axes = nn.logical_to_mesh_axes(names) or ()
    fitting = [
        axis if axis and size % _parts(axis, mesh) == 0 else None
        for axis, size in zip(axes, x.shape, strict=False)
    ]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*fitting))


def _parts(axis: str | tuple[str, ...], mesh: jax.sharding.AbstractMesh) -> int:
    return math.prod(mesh.shape[name] for name in ((axis,) if isinstance(axis, str) else axis))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gather(weight: Float[Array, "..."], names: Names) -> Float[Array, "..."]:
    """All-gathers `weight` along its logical axis "embed"; the gradient is reduce-scattered.

    With "embed" on the mesh's fsdp axis, this is fully sharded data parallelism (ZeRO; Rajbhandari et al.,
    1910.02054). Without the constraint, XLA chooses for each product between gathering the weight and
    gathering the activations of all devices. It takes the latter if they are small, and the bytes that a
    device receives then grow with the number of devices.
    """
    return constrain(weight, tuple(None if name == "embed" else name for name in names))


def _backward(names: Names, _: None, gradient: Array) -> tuple[Array]:
    return (constrain(gradient, names),)


gather.defvjp(lambda weight, names: (gather(weight, names), None), _backward)
