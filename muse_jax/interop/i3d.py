"""Weights of I3D for the FVD, from the PyTorch file that VideoGPT and others use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from muse_jax.interop.folding import fold_batch_norms
from muse_jax.interop.torch_pickle import find_torch, load_torch
from muse_jax.nn.i3d import I3D, MIN_FRAMES, SIZE
from muse_jax.nn.shapes import abstract_params

FILE = "i3d_pretrained_400.pt"
_BATCH_NORM_EPSILON = 1e-5


def load_i3d(path: str | Path = "") -> dict[str, Any]:
    """Params of `I3D`, float32 numpy.

    Args:
      path: the file, or a folder with it; "" looks in PyTorch's cache of downloads.

    Raises:
      ValueError: there is no such file, or it holds another network.
    """
    missing = (
        f"There are no I3D weights at {{place}}: put {FILE} of github.com/wilson1yan/VideoGPT there, or "
        "measure with the evaluator 'fvd_efficientnet_lite0'."
    )
    return convert_i3d(load_torch(find_torch(path, (FILE,), missing)))


def convert_i3d(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Params of `I3D` from a PyTorch state dict, batch norm folded in.

    Raises:
      ValueError: a tensor is missing, unexpected, or of another shape.
    """
    return fold_batch_norms(
        abstract_params(I3D(), jnp.zeros((1, MIN_FRAMES, SIZE, SIZE, 3))),
        state,
        network="I3D of Kinetics-400",
        epsilon=_BATCH_NORM_EPSILON,
        plain={"logits/kernel": "logits.conv3d.weight", "logits/bias": "logits.conv3d.bias"},
        unused=("num_batches_tracked",),
    )
