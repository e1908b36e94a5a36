"""A Pallas form on a mesh of devices: the compiler does not split a kernel, so it is split here."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

_HEAD_AXIS = "tensor"  # the mesh axis that heads lie on; the others split the batch


def split_over_mesh(
    attend: Callable[..., Array], query: Array, keys: Any, values: Any, extra: Any
) -> Float[Array, "batch tokens heads dim"]:
    """`attend(query, keys, values, extra)`, every device of the mesh that is set with its samples and heads.

    A mesh axis that divides neither is not used: its devices do the same work.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = [name for name, kind in zip(mesh.axis_names, mesh.axis_types) if kind != AxisType.Manual]
    batch, heads = query.shape[0], query.shape[2]
    batch_axes: list[str] = []
    head_axes: list[str] = []
    for name in free:
        size = mesh.shape[name]
        if name == _HEAD_AXIS and heads % size == 0:
            heads //= size
            head_axes.append(name)
        elif batch % size == 0:
            batch //= size
            batch_axes.append(name)
    if all(mesh.shape[name] == 1 for name in free):
        return attend(query, keys, values, extra)
    part = PartitionSpec(tuple(batch_axes), None, tuple(head_axes), None)
    mask_part = PartitionSpec(tuple(batch_axes), None)
    extra_part = None if extra is None else (part, part, mask_part)
    split = jax.shard_map(
        attend,
        in_specs=(part, (part,) * len(keys), (part,) * len(values), extra_part),
        out_specs=part,
        axis_names=set(free),
        check_vma=False,
    )
    return split(query, keys, values, extra)
