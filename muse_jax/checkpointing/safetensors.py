"""Parameters in safetensors files: one file a pytree, names joined by "/", stored in half precision."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from flax import traverse_util
from flax.core import meta
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

DTYPES: dict[str, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}


def weights_to_bytes(params: Mapping[str, Any], dtype: str = "float16") -> bytes:
    """`params` as the bytes of a safetensors file.

    Args:
      params: a tree of arrays, of any floating type.
      dtype: what they are stored in: "float16", "bfloat16" or "float32".

    Raises:
      ValueError: an unknown dtype, or a value that it cannot hold.
    """
    if dtype not in DTYPES:
        raise ValueError(f"Weights can be stored as {', '.join(DTYPES)}, not as {dtype!r}.")
    stored = {}
    for name, leaf in traverse_util.flatten_dict(meta.unbox(dict(params)), sep="/").items():
        exact = np.asarray(leaf, np.float32)
        with np.errstate(over="ignore"):
            stored[name] = np.ascontiguousarray(exact.astype(DTYPES[dtype]))
        if not np.all(np.isfinite(stored[name].astype(np.float32))):
            raise ValueError(
                f"The weights {name!r} reach {np.abs(exact).max():g}, which {dtype} cannot hold: "
                "store them as bfloat16, or float32, if they are finite."
            )
    return save(stored, metadata={"dtype": dtype})


def read_weights(file: str | Path, like: Mapping[str, Any], dtype: Any = np.float32) -> dict[str, Any]:
    """The numpy tree stored in `file`, as `dtype`; it must have the names and shapes of the tree `like`.

    Raises:
      ValueError: one sentence, for a file that is missing, damaged or of another network.
    """
    wanted = {
        name: tuple(leaf.shape) for name, leaf in traverse_util.flatten_dict(dict(like), sep="/").items()
    }
    file = Path(file)
    if not file.is_file():
        raise ValueError(f"There is no weights file {file}: put the whole checkpoint there.")
    try:
        with safe_open(file, "numpy") as tensors:
            names = set(tensors.keys())
            leaves = {name: tensors.get_tensor(name).astype(dtype) for name in names & set(wanted)}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"The weights file {file} is damaged or not of safetensors: fetch or export the checkpoint again."
        ) from error
    if names != set(wanted):
        missing, extra = sorted(set(wanted) - names), sorted(names - set(wanted))
        what = f"lacks {missing[0]!r}" if missing else f"holds the unknown {extra[0]!r}"
        raise ValueError(f"The weights file {file} {what}: it is not of the network in its config.json.")
    for name, shape in wanted.items():
        if leaves[name].shape != shape:
            raise ValueError(
                f"The weights file {file} has {name!r} in shape {leaves[name].shape} where its config.json "
                f"wants {shape}: the two are not of one checkpoint."
            )
        if not np.all(np.isfinite(leaves[name])):
            raise ValueError(f"The weights file {file} is damaged at {name!r}: fetch the checkpoint again.")
    return traverse_util.unflatten_dict(leaves, sep="/")
