"""Weights of Inception-v3 for FID, from the published PyTorch file."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from muse_jax.interop.torch_pickle import load_torch
from muse_jax.nn.inception import SIZE, InceptionV3
from muse_jax.nn.shapes import abstract_params

FILES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
SHA256 = "6726825d"  # how the hash of the file's content begins; its publishers put it into the name
_BATCH_NORM_EPSILON = 1e-3
_UNUSED = ("fc.bias", "num_batches_tracked", "AuxLogits")


def find_inception(path: str | Path = "") -> Path:
    """Finds the file with the weights.

    Args:
      path: the file, or a folder with it; "" looks in PyTorch's cache of downloads.

    Raises:
      ValueError: there is no such file.
    """
    home = os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch"
    place = Path(path) if path else Path(home) / "hub" / "checkpoints"
    for file in (place, *(place / name for name in FILES)):
        if file.is_file():
            return file
    raise ValueError(
        f"There are no Inception weights at {place}: put {FILES[0]} of github.com/mseitzer/pytorch-fid "
        "there, or measure with network='efficientnet_lite0'."
    )


def load_inception(path: str | Path = "") -> dict[str, Any]:
    """Params of `InceptionV3`, float32 numpy.

    Args:
      path: as in `find_inception`.

    Raises:
      ValueError: there is no such file, or its weights are not the published ones.
    """
    file = find_inception(path)
    with file.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    if not content.startswith(SHA256):
        raise ValueError(
            f"{file} is not the published Inception of 2015-12-05: its SHA-256 starts with {content[:8]}, "
            f"not {SHA256}; download it again."
        )
    return convert_inception(load_torch(file))


def convert_inception(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Params of `InceptionV3` from a PyTorch state dict, batch norm folded in.

    Raises:
      ValueError: a tensor is missing, unexpected, or of another shape.
    """
    shapes = abstract_params(InceptionV3(), jnp.zeros((1, SIZE, SIZE, 3)))
    params, used = {}, set()
    for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items():
        if path == "logits":
            names = ["fc.weight"]
        else:
            module = path.rsplit("/", 2)[0].replace("/", ".")
            norm = [f"{module}.bn.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
            names = [f"{module}.conv.weight", *norm]
        if missing := [name for name in names if name not in state]:
            raise ValueError(f"The checkpoint is not the FID's Inception-v3: it lacks {missing[0]}.")
        used.update(names)
        params[path] = _leaf(path, *(np.asarray(state[name], np.float32) for name in names))
        if params[path].shape != leaf.shape:
            raise ValueError(
                f"The tensor {names[0]} gives the parameter {path} the shape {params[path].shape}, but it "
                f"must have {leaf.shape}: the checkpoint is not the FID's Inception-v3."
            )
    if surplus := sorted(k for k in set(state) - used if not any(part in k for part in _UNUSED)):
        raise ValueError(
            f"The checkpoint is not the FID's Inception-v3: it also has the tensor {surplus[0]}."
        )
    return traverse_util.unflatten_dict(params, sep="/")


def _leaf(path: str, kernel: np.ndarray, *norm: np.ndarray) -> np.ndarray:
    if path == "logits":
        return kernel.T
    weight, bias, mean, variance = norm
    scale = weight / np.sqrt(variance + _BATCH_NORM_EPSILON)
    if path.endswith("bias"):
        return bias - mean * scale
    return kernel.transpose(2, 3, 1, 0) * scale
