"""Parameters in safetensors files: one pytree per file, with names joined by "/"."""

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
    """Serialises `params` as a safetensors file.

    Args:
      params: tree of floating-point arrays.
      dtype: of the stored values: "float16", "bfloat16" or "float32".

    Raises:
      ValueError: the dtype is unknown or cannot represent a value.
    """
    if dtype not in DTYPES:
        raise ValueError(f"Weights can be stored as {', '.join(DTYPES)}, not as {dtype!r}.")
    stored = {}
    for name, leaf in traverse_util.flatten_dict(meta.unbox(dict(params)), sep="/").items():
        exact = np.asarray(leaf, np.float32)
        with np.errstate(over="ignore"):
            stored[name] = np.asarray(exact.astype(DTYPES[dtype]), order="C")
        if not np.all(np.isfinite(stored[name].astype(np.float32))):
            raise ValueError(
                f"The weights {name!r} reach {np.abs(exact).max():g}, which {dtype} cannot hold: "
                "store them as bfloat16 or float32, if they are finite."
            )
    return save(stored, metadata={"dtype": dtype})


def read_weights(file: str | Path, like: Mapping[str, Any], dtype: Any = np.float32) -> dict[str, Any]:
    """Reads a tree of numpy arrays.

    Args:
      file: a safetensors file.
      like: tree with the names and shapes that the file must have.
      dtype: of the result.

    Raises:
      ValueError: the file is missing, damaged or belongs to another network.
    """
    wanted = {
        name: tuple(leaf.shape) for name, leaf in traverse_util.flatten_dict(dict(like), sep="/").items()
    }
    file = Path(file)
    if not file.is_file():
        raise ValueError(f"There is no weights file {file}: put the complete checkpoint there.")
    try:
        with safe_open(file, "numpy") as tensors:
            names = set(tensors.keys())
            leaves = {name: tensors.get_tensor(name).astype(dtype) for name in names & set(wanted)}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"The weights file {file} is damaged or not safetensors: fetch or export the checkpoint again."
        ) from error
    if names != set(wanted):
        missing, extra = sorted(set(wanted) - names), sorted(names - set(wanted))
        difference = f"lacks {missing[0]!r}" if missing else f"has the unknown {extra[0]!r}"
        raise ValueError(
            f"The weights file {file} {difference}: it is not of the network in its config.json."
        )
    for name, shape in wanted.items():
        if leaves[name].shape != shape:
            raise ValueError(
                f"The weights file {file} has {name!r} of shape {leaves[name].shape}, but config.json "
                f"wants {shape}: the two belong to different checkpoints."
            )
        if not np.all(np.isfinite(leaves[name])):
            raise ValueError(f"The weights file {file} is damaged at {name!r}: fetch it again.")
    return traverse_util.unflatten_dict(leaves, sep="/")
