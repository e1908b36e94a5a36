"""Conversion of foreign checkpoints by a table of parameter names.

A table maps a path in this library's parameter tree ("layers/attention/query/kernel") to a `Source`. Names
that contain `{layer}` are read for each layer and stacked on a leading axis, as `nn.scan` expects. Leaves are
read one at a time into their final arrays, so that peak memory is the parameters plus one leaf.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import traverse_util


class Source(NamedTuple):
    """A foreign tensor: its name, with `{layer}` if it repeats, and whether it has to be transposed."""

    name: str
    transpose: bool = False


class Tensors(Protocol):
    """Reader of foreign files: gives shapes without reading, and one tensor at a time."""

    def __contains__(self, name: str) -> bool: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def read(self, name: str) -> np.ndarray: ...


class StrictTensors:
    """Tensors of which none may be left over: it remembers which were read.

    Args:
      tensors: by name, or files.
      where: what holds them, for messages.
    """

    def __init__(self, tensors: "Mapping[str, np.ndarray] | SafetensorsFiles", where: str | Path):
        self._tensors, self.where = tensors, where
        self._unread = set(tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
          ValueError: there is no such tensor.
        """
        self._check(name)
        return self._tensors.shape(name) if hasattr(self._tensors, "shape") else self._tensors[name].shape

    def read(self, name: str) -> np.ndarray:
        """A tensor.

        Raises:
          ValueError: there is no such tensor.
        """
        self._check(name)
        self._unread.discard(name)
        return self._tensors.read(name) if hasattr(self._tensors, "read") else self._tensors[name]

    def _check(self, name: str) -> None:
        if name not in self._tensors:
            raise ValueError(
                f"{self.where} has no tensor {name!r}: it does not belong to the model to convert."
            )

    def refuse_surplus(self, ignored: Iterable[str] = ()) -> None:
        """Checks that all tensors were read, except those whose names start with a prefix in `ignored`.

        Raises:
          ValueError: a tensor was not read; the message names the first one.
        """
        prefixes = tuple(ignored)
        if surplus := sorted(name for name in self._unread if not name.startswith(prefixes)):
            more = f" and {len(surplus) - 1} more" if len(surplus) > 1 else ""
            raise ValueError(
                f"{self.where} has the tensor {surplus[0]!r}{more}, which the model to convert lacks: it "
                "belongs to another model."
            )


def read_table(
    tensors: Tensors,
    table: Mapping[str, Source],
    like: Mapping[str, Any],
    *,
    dtype: Any = jnp.float32,
    place: Callable[[str, np.ndarray], Any] | None = None,
) -> dict[str, Any]:
    """Reads a parameter tree by a name table.

    Args:
      tensors: the foreign checkpoint.
      table: path in this library's tree -> foreign tensor.
      like: the tree to read, as shapes (from `jax.eval_shape`).
      dtype: of the parameters.
      place: (path, array) -> leaf on its devices, by default JAX's default device. Use it to shard a model
        that is larger than one device.

    Raises:
      ValueError: a name is missing from the table or the checkpoint, or a shape differs.
    """
    place = place or (lambda _, array: jnp.asarray(array))
    wanted = traverse_util.flatten_dict(dict(like), sep="/")
    if missing := sorted(set(wanted) - set(table)):
        raise ValueError(f"The name table has no entry for the parameters {missing}; add them to it.")
    leaves = {}
    for path, leaf in wanted.items():
        leaves[path] = place(path, _read_leaf(tensors, table[path], tuple(leaf.shape), np.dtype(dtype), path))
    return traverse_util.unflatten_dict(leaves, sep="/")


def check_table(tensors: Tensors, table: Mapping[str, Source], like: Mapping[str, Any]) -> None:
    """Checks that `read_table` would succeed, by the shapes of the tensors.

    Raises:
      ValueError: one sentence, for the first tensor that is missing or of another shape.
    """
    for path, leaf in traverse_util.flatten_dict(dict(like), sep="/").items():
        source = table[path]
        stacked = "{layer}" in source.name
        for layer in range(leaf.shape[0] if stacked else 1):
            name, shape = source.name.format(layer=layer), tuple(leaf.shape[stacked:])
            if name not in tensors:
                raise ValueError(_missing(name, path))
            found = tensors.shape(name)
            if (found[::-1] if source.transpose else found) != shape:
                raise ValueError(_misshapen(name, found, path, shape))


def _missing(name: str, path: str) -> str:
    return f"The checkpoint has no tensor {name!r}, from which the parameter {path!r} is read."


def _misshapen(name: str, found: tuple[int, ...], path: str, shape: tuple[int, ...]) -> str:
    return (
        f"The tensor {name!r} has shape {found}, but the parameter {path!r} has {shape}; the checkpoint "
        "belongs to a model of another size or kind."
    )


def _read_leaf(
    tensors: Tensors, source: Source, shape: tuple[int, ...], dtype: np.dtype, path: str
) -> np.ndarray:
    if "{layer}" not in source.name:
        return _read_one(tensors, source, source.name, shape, path).astype(dtype)
    stacked = np.empty(shape, dtype)
    for layer in range(shape[0]):
        stacked[layer] = _read_one(tensors, source, source.name.format(layer=layer), shape[1:], path)
    return stacked


def _read_one(tensors: Tensors, source: Source, name: str, shape: tuple[int, ...], path: str) -> np.ndarray:
    if name not in tensors:
        raise ValueError(_missing(name, path))
    array = tensors.read(name)
    array = array.T if source.transpose else array
    if array.shape != shape:
        raise ValueError(_misshapen(name, array.shape, path, shape))
    return array


class SafetensorsFiles:
    """Tensors of one or several safetensors files, memory-mapped: only tensors that are read are loaded."""

    _DTYPES = {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "I64": np.int64,
        "I32": np.int32,
        "U8": np.uint8,
        "BOOL": np.bool_,
    }

    def __init__(self, files: Iterable[str | Path]):
        self._where: dict[str, tuple[Path, str, tuple[int, ...], int]] = {}
        for file in map(Path, files):
            self._index(file)

    @classmethod
    def in_directory(cls, directory: str | Path, stem: str = "model") -> "SafetensorsFiles":
        """Opens `model.safetensors`, or all shards listed in `model.safetensors.index.json`."""
        directory = Path(directory)
        index = directory / f"{stem}.safetensors.index.json"
        if not index.exists():
            return cls([directory / f"{stem}.safetensors"])
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return cls(directory / shard for shard in shards)

    def _index(self, file: Path) -> None:
        if not file.exists():
            raise ValueError(f"The file {file} does not exist; put the checkpoint's safetensors files there.")
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            content = stream.read(length) if 0 < length <= size - 8 else b"{}"
        try:
            header = json.loads(content)
            header.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in header.values()]
        except (ValueError, TypeError, KeyError, AttributeError):
            header, ends = {}, []
        if not header or 8 + length + max(ends) != size:
            raise ValueError(f"The file {file} is not a complete safetensors file; download it again.")
        for name, entry in header.items():
            offset = 8 + length + entry["data_offsets"][0]
            self._where[name] = (file, entry["dtype"], tuple(entry["shape"]), offset)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._where[name][2]

    def read(self, name: str) -> np.ndarray:
        file, dtype, shape, offset = self._where[name]
        if dtype not in self._DTYPES:
            raise ValueError(
                f"The tensor {name!r} in {file} is of type {dtype}; {sorted(self._DTYPES)} can be read."
            )
        return np.memmap(file, self._DTYPES[dtype], mode="r", offset=offset, shape=shape)
