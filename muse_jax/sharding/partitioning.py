"""Partitioning rules: the mesh axis of each logical axis, and shardings derived from them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.core import meta
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")
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
"""Logical axis to mesh axis: weights are sharded over fsdp along their embedding axis and over tensor along
their wide axis; batches are sharded over both data and fsdp."""


def make_mesh(shape: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """Makes a mesh with the axes (data, fsdp, tensor), the inner axes on neighbouring devices.

    Args:
      shape: devices along each axis; one may be -1, for all remaining devices. The key `slices` (default 1)
        is the number of slices, connected by a slower network, that the data axis spans.
      devices: all by default; may be the devices of a topology description.

    Raises:
      ValueError: if the sizes do not multiply to the number of devices, or `slices` does not match them.
    """
    devices = list(jax.devices() if devices is None else devices)
    given = {axis: shape[axis] for axis in MESH_AXES}
    sizes = list(given.values())
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"config.mesh is {given}, but sizes must be positive and at most one may be -1.")
    free = len(devices) // known if -1 in sizes else 1
    if known * free != len(devices):
        raise ValueError(
            f"config.mesh is {given}, which cannot cover {len(devices)} devices: "
            "make the product of data, fsdp and tensor equal to their number, or set data=-1."
        )
    sizes = [free if size == -1 else size for size in sizes]
    placed = place_devices(sizes, shape.get("slices", 1), devices)
    return Mesh(placed, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def place_devices(sizes: Sequence[int], slices: int, devices: Sequence[Any]) -> np.ndarray:
    """Arranges `devices` in an array of shape `sizes` (data, fsdp, tensor), with slices along the data axis.

    A slice is a set of devices on a fast network: the devices of one `slice_index` (TPU slices; hosts or
    NVLink domains of GPUs). Without that attribute it is all TPUs, or the devices of one process (also on
    CPU). Gradients cross the slow network once per step; the traffic of fsdp and tensor stays in a slice.

    Raises:
      ValueError: if there are not `slices` slices, or they do not divide the data axis.
    """
    tpu = devices[0].platform == "tpu"
    numbered = hasattr(devices[0], "slice_index") and devices[0].platform != "cpu"
    granule = "slice_index" if numbered or tpu else "process_index"
    there = len({getattr(device, granule, 0) for device in devices})
    if slices != there and (slices != 1 or tpu):
        raise ValueError(
            f"config.mesh.slices is {slices}, but the {len(devices)} devices form {there}: set it to their "
            "number."
        )
    if sizes[0] % slices:
        raise ValueError(
            f"config.mesh has data={sizes[0]}, which {slices} slices do not divide: make it a multiple of "
            "them, since only the data axis may cross slices."
        )
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return mesh_utils.create_hybrid_device_mesh(
        (sizes[0] // slices, *sizes[1:]),
        (slices, 1, 1),
        devices,
        process_is_granule=granule == "process_index",
        allow_split_physical_axes=True,
    )


def one_device_mesh() -> Mesh:
    """Mesh of the first device of this process."""
    return make_mesh(dict.fromkeys(MESH_AXES, 1), jax.local_devices()[:1])


def current_mesh() -> Mesh:
    """The mesh set by `jax.set_mesh`, or the mesh of one device."""
    mesh = jax.sharding.get_mesh()
    return one_device_mesh() if mesh.empty else mesh


@contextmanager
def on_mesh(mesh: Mesh) -> Iterator[None]:
    """Context in which programs are sharded over `mesh` by `RULES`."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        yield


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises ValueError unless `accumulate` microbatches split evenly over the data and fsdp axes."""
    shards = batch_shards(mesh)
    if batch_size % shards:
        raise ValueError(
            f"config.data.batch_size is {batch_size}, which cannot be split over {shards} devices "
            f"(mesh data={mesh.shape['data']}, fsdp={mesh.shape['fsdp']}): make it a multiple of {shards}."
        )
    if batch_size % (shards * accumulate):
        raise ValueError(
            f"config.optim.accumulate is {accumulate}, but it must divide the {batch_size // shards} images "
            f"that config.data.batch_size={batch_size} gives to each of {shards} shards."
        )


def batch_shards(mesh: Mesh) -> int:
    """Number of shards of a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding with a full copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of the leading axis over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def _leaf_sharding(leaf: Any, mesh: Mesh) -> NamedSharding:
    # Vectors (the scale of a norm, a bias) are replicated: gathering them costs latency and saves little.
    if not isinstance(leaf, meta.Partitioned) or sum(name != "layers" for name in leaf.names) < 2:
        return replicated(mesh)
    # An axis that the mesh axis does not divide (a vocabulary with a mask row, say) is not sharded.
    names = nn.logical_to_mesh_axes(leaf.names, rules=RULES) or ()
    fitting = [
        axis if axis and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(names, leaf.value.shape, strict=False)
    ]
    return NamedSharding(mesh, PartitionSpec(*fitting))


def tree_shardings(boxed: Any, mesh: Mesh) -> Any:
    """Sharding of each leaf of a tree, from its axis names of `nn.with_logical_partitioning`."""
    is_box = lambda leaf: isinstance(leaf, meta.AxisMetadata)  # noqa: E731
    return jax.tree.map(lambda leaf: _leaf_sharding(leaf, mesh), boxed, is_leaf=is_box)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(
        str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path
    )


# Adafactor's factored moments have a parameter's axes without the largest or the second largest.
_FACTORED = {"v_row": -1, "v_col": -2}


def like_params(state: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """Shardings of an optimizer's state.

    A leaf whose path ends with that of a parameter is sharded like it. Adafactor's factored moments are
    sharded likewise along the axes that they keep. Everything else is replicated.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    known = {
        _names(path): (leaf.shape, sharding.spec)
        for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True)
    }

    def sharding_of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = _names(path)
        for start in range(len(names)):
            if names[start:] not in known:
                continue
            shape, spec = known[names[start:]]
            axes = (*spec, *[None] * (len(shape) - len(spec)))
            if shape != leaf.shape and start and names[start - 1] in _FACTORED and len(shape) > 1:
                dropped = np.argsort(shape)[_FACTORED[names[start - 1]]]
                shape, axes = (tuple(np.delete(each, dropped)) for each in (shape, np.array(axes, object)))
            if shape == leaf.shape:
                return NamedSharding(mesh, PartitionSpec(*axes))
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding_of, state)


def _shards_here(mesh: Mesh) -> list[int]:
    """Indices of the batch shards on the devices of this process, in order."""
    shards = np.arange(batch_shards(mesh))
    indices = batch_sharding(mesh).addressable_devices_indices_map(shards.shape)
    return sorted({int(shards[index][0]) for index in indices.values()})


def process_rows(batch_size: int) -> np.ndarray:
    """Rows of a batch that this process reads under the current mesh; all rows without a mesh.

    Processes that share a shard (where the tensor axis spans several) read the same rows. Batch k therefore
    has the same rows in the same order on any mesh and any number of processes.
    """
    mesh = jax.sharding.get_mesh()
    places = np.arange(batch_size)
    if mesh.empty:
        return places
    return places.reshape(batch_shards(mesh), -1)[_shards_here(mesh)].reshape(-1)


def put_tree(tree: Any, shardings: Any) -> Any:
    """Puts arrays that every process holds in full on the devices, with the given shardings.

    Arrays that have their sharding already are not copied. A `jax.ShapeDtypeStruct` gets its sharding.
    """

    def put(leaf: Any, sharding: NamedSharding) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf.update(sharding=sharding)
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            return leaf
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)

    return jax.tree.map(put, tree, shardings)


def put_rows(tree: Any, mesh: Mesh) -> Any:
    """`put_tree` for arrays with a leading batch axis: sharded if it divides evenly, else replicated."""
    shards = batch_shards(mesh)
    sharding = lambda leaf: replicated(mesh) if leaf.shape[0] % shards else batch_sharding(mesh)  # noqa: E731
    return put_tree(tree, jax.tree.map(sharding, tree))


def to_host(tree: Any) -> Any:
    """Full numpy copies of sharded arrays on every process; a collective call if several share the mesh."""

    def gather(leaf: jax.Array) -> np.ndarray:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(gather, tree)


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts a batch on the devices, from the `process_rows` of each process; drops non-numeric fields."""
    sharding, here = batch_sharding(mesh), _shards_here(mesh)

    def put(value: np.ndarray) -> jax.Array:
        rows = len(value) // len(here)

        def part(index: Any) -> np.ndarray:
            first = here.index((index[0].start or 0) // rows) * rows
            return value[first : first + rows]

        shape = (rows * batch_shards(mesh), *value.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return {
        name: put(value)
        for name, value in batch.items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    }
