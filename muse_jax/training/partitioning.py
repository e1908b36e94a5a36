"""Which mesh axis each named axis of a parameter lies on: one table, and what follows from it."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.core import meta
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")
# Logical axis -> mesh axis. Weights lie in shards over fsdp along their embedding axis and over tensor along
# their wide one; batches are split over data and fsdp alike.
RULES: tuple[tuple[str, Any], ...] = (
    ("batch", ("data", "fsdp")),
    ("embed", "fsdp"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("vocab", "tensor"),
    ("conv_out", "fsdp"),
    ("conv_in", None),
    ("kv", None),
    ("length", None),
    ("layers", None),
)


def make_mesh(shape: Mapping[str, int], devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over (data, fsdp, tensor).

    Args:
      shape: devices along each axis; one of them may be -1, which takes what the others leave.
      devices: all of them by default.

    Raises:
      ValueError: if the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices()) if devices is None else devices
    sizes = [shape[axis] for axis in MESH_AXES]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(
            f"config.mesh is {dict(shape)}, but sizes must be positive and at most one may be -1."
        )
    free = len(devices) // known if -1 in sizes else 1
    if known * free != len(devices):
        raise ValueError(
            f"config.mesh is {dict(shape)}, which cannot cover {len(devices)} devices: "
            "make the product of data, fsdp and tensor equal to their number, or set data=-1."
        )
    sizes = [free if size == -1 else size for size in sizes]
    return jax.make_mesh(tuple(sizes), MESH_AXES, devices=devices, axis_types=(AxisType.Auto,) * 3)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError unless `batch_size` can be split evenly over the mesh's data and fsdp axes."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % shards:
        raise ValueError(
            f"config.data.batch_size is {batch_size}, which cannot be split over {shards} devices "
            f"(mesh data={mesh.shape['data']}, fsdp={mesh.shape['fsdp']}): make it a multiple of {shards}."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """One whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def _leaf_sharding(leaf: Any, mesh: Mesh) -> NamedSharding:
    if not isinstance(leaf, meta.Partitioned):
        return replicated(mesh)
    # An axis that the mesh axis does not divide (a vocabulary with one more row, say) stays whole.
    names = nn.logical_to_mesh_axes(leaf.names, rules=RULES) or ()
    fitting = [
        axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(names, leaf.value.shape)
    ]
    return NamedSharding(mesh, PartitionSpec(*fitting))


def tree_shardings(boxed: Any, mesh: Mesh) -> Any:
    """The sharding of each leaf of a tree, by the axis names that `nn.with_logical_partitioning` gave it."""
    is_box = lambda leaf: isinstance(leaf, meta.AxisMetadata)  # noqa: E731
    return jax.tree.map(lambda leaf: _leaf_sharding(leaf, mesh), boxed, is_leaf=is_box)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(
        str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path
    )


def like_params(state: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """Shardings of an optimizer's state: a leaf with the path and shape of a parameter lies as it does."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    known = {
        _names(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True)
    }

    def sharding_of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = _names(path)
        for start in range(len(names)):
            shape, sharding = known.get(names[start:], (None, None))
            if shape == leaf.shape:
                return sharding
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding_of, state)


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Host arrays to the devices, each process giving its own rows of the global batch; texts stay behind."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    }
