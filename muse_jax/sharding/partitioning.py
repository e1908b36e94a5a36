"""Which mesh axis each named axis of a parameter lies on: one table, and what follows from it."""

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


def make_mesh(shape: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over (data, fsdp, tensor), its inner axes on near devices.

    Args:
      shape: devices along each axis; one of them may be -1, which takes what the others leave. `slices`
        (1 if absent) says over how many slices, joined by a slow network, the data axis is spread.
      devices: all of them by default; those of a topology that is only described will do.

    Raises:
      ValueError: if the sizes do not multiply to the number of devices, or the slices are others.
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
    """`devices` in an array of shape `sizes` (data, fsdp, tensor), the data axis outermost over the slices.

    A slice is what a fast network joins: the devices of one `slice_index` (TPU slices; hosts, or NVLink
    domains, of GPUs); where they have none, all TPUs together, else (and on CPUs) those of one process.
    Gradients cross the slow network once a step; what fsdp and tensor exchange stays inside a slice.

    Raises:
      ValueError: if there are not `slices` slices, or the data axis cannot be split over them.
    """
    tpu = devices[0].platform == "tpu"
    numbered = hasattr(devices[0], "slice_index") and devices[0].platform != "cpu"
    granule = "slice_index" if numbered or tpu else "process_index"
    there = len({getattr(device, granule, 0) for device in devices})
    if slices != there and (slices != 1 or tpu):
        raise ValueError(
            f"config.mesh.slices is {slices}, but the slices that the {len(devices)} devices lie in are "
            f"{there}: set it to their number."
        )
    if sizes[0] % slices:
        raise ValueError(
            f"config.mesh has data={sizes[0]}, which cannot be spread over {slices} slices: make it a "
            "multiple of them, since only the data axis may cross slices."
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
    """A mesh of this process's first device."""
    return make_mesh(dict.fromkeys(MESH_AXES, 1), jax.local_devices()[:1])


def current_mesh() -> Mesh:
    """The mesh that `jax.set_mesh` set; without one, that of one device."""
    mesh = jax.sharding.get_mesh()
    return one_device_mesh() if mesh.empty else mesh


@contextmanager
def on_mesh(mesh: Mesh) -> Iterator[None]:
    """The context in which programs are laid out over `mesh` by `RULES`."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        yield


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises ValueError unless each of `accumulate` equal parts splits evenly over the data and fsdp axes."""
    shards = batch_shards(mesh)
    if batch_size % shards:
        raise ValueError(
            f"config.data.batch_size is {batch_size}, which cannot be split over {shards} devices "
            f"(mesh data={mesh.shape['data']}, fsdp={mesh.shape['fsdp']}): make it a multiple of {shards}."
        )
    if batch_size % (shards * accumulate):
        raise ValueError(
            f"config.optim.accumulate is {accumulate}, but it must divide the {batch_size // shards} images "
            f"that config.data.batch_size={batch_size} gives to each of {shards} parts of the mesh."
        )


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh) -> NamedSharding:
    """One whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def _leaf_sharding(leaf: Any, mesh: Mesh) -> NamedSharding:
    # A vector a layer (a norm's scale, a bias) stays whole: gathering it costs a latency and saves nothing.
    if not isinstance(leaf, meta.Partitioned) or sum(name != "layers" for name in leaf.names) < 2:
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


# Adafactor's factored moments are those of a parameter without its largest axis and its second largest.
_FACTORED = {"v_row": -1, "v_col": -2}


def like_params(state: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """Shardings of an optimizer's state: a leaf with the path of a parameter lies as it does.

    So do Adafactor's means over an axis of a parameter, but for that axis. All else is replicated.
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
    """Which of the parts of a batch this process's devices hold, in order."""
    shards = np.arange(batch_shards(mesh))
    indices = batch_sharding(mesh).addressable_devices_indices_map(shards.shape)
    return sorted({int(shards[index][0]) for index in indices.values()})


def process_rows(batch_size: int) -> np.ndarray:
    """Places in a batch that this process reads for the mesh that `jax.set_mesh` set; all without one.

    Processes that share a part of the batch (where the tensor axis spans them) read the same rows, so that
    batch k is the same rows in the same order on any mesh and any number of processes.
    """
    mesh = jax.sharding.get_mesh()
    places = np.arange(batch_size)
    if mesh.empty:
        return places
    return places.reshape(batch_shards(mesh), -1)[_shards_here(mesh)].reshape(-1)


def put_tree(tree: Any, shardings: Any) -> Any:
    """Whole arrays that every process holds, on the devices; each process cuts out its own parts.

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
    """`put_tree` of arrays with the batch as leading axis: split where it divides evenly, else whole."""
    shards = batch_shards(mesh)
    sharding = lambda leaf: replicated(mesh) if leaf.shape[0] % shards else batch_sharding(mesh)  # noqa: E731
    return put_tree(tree, jax.tree.map(sharding, tree))


def to_host(tree: Any) -> Any:
    """Arrays of a mesh as numpy arrays, whole in every process; where it spans several, all must call it."""

    def gather(leaf: jax.Array) -> np.ndarray:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(gather, tree)


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Host arrays to the devices, each process giving its `process_rows`; texts stay behind."""
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
