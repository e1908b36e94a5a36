"""Restricted reader of PyTorch checkpoint files, which needs no PyTorch and runs no code from the file.

A `.pth` file is a pickle, and a pickle is a program. This reader admits the names that a state dict needs
(functions that rebuild tensors, `OrderedDict`, storage types) and refuses all others before any call.
"""

import io
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_STORAGE_DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class _StorageType:
    """Placeholder for a `torch.XStorage` class; the pickle can neither call nor change it."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: Any):
        self.dtype = np.dtype(dtype)


class _Name:
    """Placeholder for a class that Lightning's checkpoints name; it can be neither called nor changed."""

    __slots__ = ()


class _Storage:
    """Flat buffer of which tensors are views."""

    __slots__ = ("data",)

    def __init__(self, data: np.ndarray):
        self.data = data


class _TensorUnpickler(pickle.Unpickler):
    def __init__(
        self, file: BinaryIO, open_storage: Callable[[np.dtype, str, int], np.ndarray] | None = None
    ):
        super().__init__(file, encoding="utf-8")
        self._open_storage = open_storage
        self._storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils":
            allowed = {
                "_rebuild_tensor": _rebuild_tensor,
                "_rebuild_tensor_v2": _rebuild_tensor,
                "_rebuild_parameter": _rebuild_parameter,
            }
            if name in allowed:
                return allowed[name]
        if module in ("torch", "torch.storage") and name in _STORAGE_DTYPES:
            return _StorageType(_STORAGE_DTYPES[name])
        if module.split(".")[0] in ("pytorch_lightning", "lightning"):
            return _Name()
        raise ValueError(
            f"it refers to {module}.{name}, and only tensors, OrderedDict and storages are admitted"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        if self._open_storage is None or not (
            isinstance(pid, tuple)
            and len(pid) in (5, 6)
            and pid[0] == "storage"
            and isinstance(pid[1], _StorageType)
            and isinstance(pid[4], int)
        ):
            raise ValueError("it refers to something that is not a tensor storage")
        if len(pid) == 6 and pid[5] is not None:
            raise ValueError("its storages are views of one another, a form older than PyTorch 0.4")
        kind, key, count = pid[1], str(pid[2]), pid[4]
        if key not in self._storages:
            self._storages[key] = _Storage(self._open_storage(kind.dtype, key, count))
        storage = self._storages[key]
        if storage.data.dtype != kind.dtype:
            raise ValueError(
                f"its storage {key} is named with two types, {storage.data.dtype} and {kind.dtype}"
            )
        return storage


def _rebuild_tensor(storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    # These numbers come from the file: a view must not reach outside its storage.
    data = storage.data
    if len(size) != len(stride) or offset < 0 or any(n < 0 for n in (*size, *stride)):
        raise ValueError(f"it holds a tensor of impossible size {size}, stride {stride}, offset {offset}")
    if 0 in size:
        return np.zeros(size, data.dtype)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if last >= data.size:
        raise ValueError(
            f"it holds a tensor of size {size} that reaches past its storage of {data.size} values"
        )
    strides = tuple(s * data.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(data[offset:], shape=tuple(size), strides=strides)


def _rebuild_parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data


def find_torch(path: str | os.PathLike, names: Collection[str], missing: str) -> Path:
    """Finds a published file of weights.

    Args:
      path: the file, or a folder with it; "" looks in PyTorch's cache of downloads.
      names: the file's usual names.
      missing: message of the error, in which "{place}" stands for where the file was looked for.

    Raises:
      ValueError: there is no such file.
    """
    home = os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch"
    place = Path(path) if path else Path(home) / "hub" / "checkpoints"
    for file in (place, *(place / name for name in names)):
        if file.is_file():
            return file
    raise ValueError(missing.format(place=place))


def load_torch(path: str | os.PathLike) -> Any:
    """Reads a PyTorch checkpoint; tensors become numpy arrays, which are views of their storages.

    Zip archives (PyTorch 1.6 and later) and the older legacy format are supported. bfloat16 becomes
    `ml_dtypes.bfloat16`.

    Args:
      path: a `.pt` or `.pth` file.

    Returns:
      The saved object, usually an `OrderedDict` of names and arrays.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file is not a PyTorch checkpoint, is truncated, or refers to anything but tensors in
        plain containers. Such a file is refused before any call.
    """
    try:
        with open(path, "rb") as file:
            return _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
    except ValueError as error:
        raise ValueError(f"{path} was refused: {error}.") from error
    # A damaged pickle can raise errors of any type, according to pickle's documentation.
    except (pickle.UnpicklingError, EOFError, zipfile.BadZipFile, struct.error) as error:
        raise ValueError(f"{path} is not a complete PyTorch checkpoint: {error}.") from error
    except (
        AttributeError,
        ImportError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise ValueError(f"{path} is not a supported PyTorch checkpoint: {error}.") from error


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        index = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if index is None:
            raise ValueError("it is a zip archive without data.pkl, so not a PyTorch checkpoint")
        root = index[: -len("data.pkl")]
        order = "little"
        if root + "byteorder" in archive.namelist():
            order = archive.read(root + "byteorder").decode("ascii", "replace").strip()

        def open_storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
            return _from_bytes(archive.read(f"{root}data/{key}"), dtype, count, order)

        return _TensorUnpickler(io.BytesIO(archive.read(index)), open_storage).load()


def _read_legacy(file: BinaryIO) -> Any:
    """Reads magic, protocol, system info, object, storage keys, and each storage's int64 count and values."""
    file.seek(0, os.SEEK_END)
    length = file.tell()
    file.seek(0)
    if _TensorUnpickler(file).load() != _LEGACY_MAGIC or _TensorUnpickler(file).load() != _LEGACY_PROTOCOL:
        raise ValueError("it does not begin like a PyTorch checkpoint")
    system = _TensorUnpickler(file).load()
    order = "little" if system.get("little_endian", True) else "big"
    storages: dict[str, np.ndarray] = {}

    def open_storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        if count < 0 or count * dtype.itemsize > length:
            raise ValueError(f"its storage {key} claims {count} values, more than the file holds")
        # The values follow the pickle; tensors are views of the storages, which are filled in later.
        return storages.setdefault(key, np.zeros(count, dtype))

    result = _TensorUnpickler(file, open_storage).load()
    for key in _TensorUnpickler(file).load():
        if key not in storages:
            raise ValueError(f"it stores values under {key}, which no tensor uses")
        storage = storages[key]
        (count,) = struct.unpack("<q" if order == "little" else ">q", file.read(8))
        storage[:] = _from_bytes(file.read(storage.nbytes), storage.dtype, storage.size, order)
        if count != storage.size:
            raise ValueError(f"its storage {key} has {count} values instead of {storage.size}")
    return result


def _from_bytes(raw: bytes, dtype: np.dtype, count: int, order: str) -> np.ndarray:
    if len(raw) != count * dtype.itemsize:
        raise ValueError(f"a storage has {len(raw)} bytes instead of {count * dtype.itemsize}")
    values = np.frombuffer(raw, dtype)
    return values.byteswap() if order != sys.byteorder else values.copy()
