"""Params of convolutional networks from PyTorch state dicts, batch norm folded into the convolutions."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

_NORM = ("weight", "bias", "running_mean", "running_var")


def fold_batch_norms(
    shapes: Any,
    state: Mapping[str, np.ndarray],
    *,
    network: str,
    epsilon: float,
    plain: Mapping[str, str],
    unused: Collection[str] = (),
) -> dict[str, Any]:
    """Params of a network whose convolutions are followed by batch norm in PyTorch.

    A convolution at "block/conv/kernel" is "block.conv.weight" with the batch norm "block.bn".

    Args:
      shapes: the tree of the params' shapes.
      network: what the checkpoint must be, for messages.
      epsilon: of the batch norm.
      plain: path of a parameter without batch norm -> name of its tensor, which is transposed.
      unused: parts of names of tensors that may be there and are not read.

    Raises:
      ValueError: a tensor is missing, unexpected, or of another shape.
    """
    params, used = {}, set()
    for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items():
        names = [plain[path]] if path in plain else _names(path)
        if missing := [name for name in names if name not in state]:
            raise ValueError(f"The checkpoint is not {network}: it lacks {missing[0]}.")
        used.update(names)
        tensor, *norm = (np.asarray(state[name], np.float32) for name in names)
        params[path] = _folded(path, epsilon, tensor, *norm) if norm else tensor.reshape(tensor.shape[:2]).T
        if params[path].shape != leaf.shape:
            raise ValueError(
                f"The tensor {names[0]} gives the parameter {path} the shape {params[path].shape}, but it "
                f"must have {leaf.shape}: the checkpoint is not {network}."
            )
    if surplus := sorted(k for k in set(state) - used if not any(part in k for part in unused)):
        raise ValueError(f"The checkpoint is not {network}: it also has the tensor {surplus[0]}.")
    return traverse_util.unflatten_dict(params, sep="/")


def _names(path: str) -> list[str]:
    """The tensors of a convolution and of its batch norm."""
    block, convolution, _ = path.rsplit("/", 2)
    block = block.replace("/", ".")
    return [f"{block}.{convolution}.weight", *(f"{block}.bn.{part}" for part in _NORM)]


def _folded(
    path: str,
    epsilon: float,
    kernel: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
) -> np.ndarray:
    scale = weight / np.sqrt(variance + epsilon)
    if path.endswith("bias"):
        return bias - mean * scale
    return np.moveaxis(kernel, (0, 1), (-1, -2)) * scale
