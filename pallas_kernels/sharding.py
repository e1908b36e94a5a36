"""Pallas kernels on a mesh of devices, under `jax.shard_map`: XLA cannot partition a kernel by itself."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

_HEAD_AXIS = "tensor"  # the mesh axis that shards heads; the others shard the batch


def split_over_mesh(
    attend: Callable[..., Array], query: Array, keys: Any, values: Any, extra: Any
) -> Float[Array, "batch tokens heads dim"]:
    """`attend(query, keys, values, extra)`, sharded over batch and heads on the current mesh.

    A mesh axis that divides neither the batch nor the heads is not used: its devices repeat the same work.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = _free_axes(mesh)
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


def split_rows(
    sample: Callable[..., tuple[Array, Array]], hidden: Array, *others: Array
) -> tuple[Array, Array]:
    """`sample(hidden, first_row, *others)`, with the rows of `hidden` sharded over the current mesh.

    Rows are padded to a multiple of the devices. `first_row` is the index of a shard's first row, uint32.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = _free_axes(mesh)
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


def _free_axes(mesh: jax.sharding.AbstractMesh) -> tuple[str, ...]:
    """Axes of the mesh that no enclosing `shard_map` has taken."""
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in kinds if kind != AxisType.Manual)
