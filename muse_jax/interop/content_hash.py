"""Content hash of weights, independent of the files that store them."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import meta


def content_hash(params: Mapping[str, Any], dtype: Any = np.float32) -> str:
    """Hashes the names, shapes and values of a tree of arrays.

    Args:
      params: tree of arrays.
      dtype: to which floats are rounded first, so that trees in different precisions can agree.

    Returns:
      SHA-256 in hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, leaf in sorted(traverse_util.flatten_dict(meta.unbox(dict(params)), sep="/").items()):
        array = np.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.floating):
            array = array.astype(dtype, copy=False)
        digest.update(f"{name} {array.shape} {array.dtype}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
