"""Weights of Inception-v3 for FID, from the published PyTorch file."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from muse_jax.interop.folding import fold_batch_norms
from muse_jax.interop.torch_pickle import find_torch, load_torch
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
    return find_torch(
        path,
        FILES,
        f"There are no Inception weights at {{place}}: put {FILES[0]} of github.com/mseitzer/pytorch-fid "
        "there, or measure with network='efficientnet_lite0'.",
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
    return fold_batch_norms(
        abstract_params(InceptionV3(), jnp.zeros((1, SIZE, SIZE, 3))),
        state,
        network="the FID's Inception-v3",
        epsilon=_BATCH_NORM_EPSILON,
        plain={"logits": "fc.weight"},
        unused=_UNUSED,
    )
