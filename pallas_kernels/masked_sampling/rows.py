"""The rows of a Pallas form split over the devices of a mesh, which the compiler does not do for it."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array


def split_rows(
    sample: Callable[..., tuple[Array, Array]], hidden: Array, *others: Array
) -> tuple[Array, Array]:
    """`sample(hidden, first_row, *others)`, every device of the mesh that is set with a part of the rows."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(name for name, kind in zip(mesh.axis_names, mesh.axis_types) if kind != AxisType.Manual)
    devices = math.prod(mesh.shape[name] for name in axes)
    if devices == 1:
        return sample(hidden, jnp.uint32(0), *others)

    def part(hidden: Array, *others: Array) -> tuple[Array, Array]:
        first_row = jax.lax.axis_index(axes) * hidden.shape[0]
        return sample(hidden, first_row.astype(jnp.uint32), *others)

    split, whole = PartitionSpec(axes), PartitionSpec()
    specs = (split, *[whole] * len(others))
    rows = len(hidden)
    hidden = jnp.pad(hidden, ((0, -rows % devices), (0, 0)))
    token, log_prob = jax.shard_map(
        part, in_specs=specs, out_specs=(split, split), axis_names=set(axes), check_vma=False
    )(hidden, *others)
    return token[:rows], log_prob[:rows]
