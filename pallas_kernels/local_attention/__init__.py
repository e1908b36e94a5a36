"""Local attention: each query attends to the keys in a window around its position and to a few global keys.

The equations are those of CogView2 (arXiv 2204.14217), section 3.3, and its kernel; NUWA's 3D nearby
attention is the same on three axes. `reference` is brute force, `xla` tiled plain JAX, `tpu` and `gpu` are
Pallas.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from pallas_kernels.dispatch import select
from pallas_kernels.local_attention.geometry import Geometry, Window, align, make_window, show
from pallas_kernels.sharding import split_over_mesh

__all__ = ["Geometry", "LocalKeys", "Window", "find_attend", "local_attention"]


class LocalKeys(NamedTuple):
    """Keys and values `(batch, positions, heads, dim)` over `grid`, in raster order, and their `window`."""

    key: Array
    value: Array
    grid: tuple[int, ...]
    window: tuple[int, ...]


def local_attention(
    query: Float[Array, "batch tokens heads dim"],
    key: Float[Array, "batch keys heads dim"],
    value: Float[Array, "batch keys heads dim"],
    *,
    grid: tuple[int, ...],
    window: tuple[int, ...],
    key_grid: tuple[int, ...] | None = None,
    causal: bool = False,
    coarse: LocalKeys | None = None,
    extra_key: Float[Array, "batch extra heads dim"] | None = None,
    extra_value: Float[Array, "batch extra heads dim"] | None = None,
    extra_mask: Bool[Array, "batch extra"] | None = None,
    implementation: str | None = None,
) -> Float[Array, "batch tokens heads dim"]:
    """Attention of each position of `grid` to the keys in a window around it, scaled by `dim ** -0.5`.

    The softmax is float32; positions outside the grid are left out of it. Memory grows at most with tokens x
    window, in the backward pass too. Under a mesh (`jax.set_mesh`), the Pallas implementations shard the
    batch over it, and the heads over its axis "tensor".

    Args:
      query: in raster order over `grid`.
      key, value: in raster order over `key_grid`.
      grid: sizes of one to three axes.
      window: odd sizes, one per axis. A window wider than the grid gives full attention.
      key_grid: `grid` by default. The window of a query at position i of an axis is centred on
        `i * keys // queries` (NUWA, section 3.2).
      causal: leave out keys after the query in raster order; only if `key_grid` equals `grid`.
      coarse: a second window, on keys over a grid that divides `grid`, in the same softmax.
      extra_key, extra_value: global keys, such as text, in the same softmax.
      extra_mask: True where a global key is visible; everywhere by default.
      implementation: "reference", "xla", "tpu" or "gpu"; by default the variable MUSE_JAX_KERNELS, or else
        the platform's own.

    Returns:
      an array of the query's shape and dtype.

    Raises:
      ValueError: if shapes or dtypes disagree, a window is even, the coarse key grid does not divide the
        grid, causal is combined with another key grid, or the implementation does not run here.
    """
    if key_grid is not None and coarse is None and not causal and _needs_alignment(grid, key_grid):
        _check(
            query, "query", (query.shape[0], math.prod(grid), *query.shape[2:]), query, f"grid {show(grid)}"
        )
        grid, places = align(grid, key_grid)
        source = np.zeros(math.prod(grid), int)  # places that no query has repeat the first one
        source[places] = np.arange(len(places))
        aligned = local_attention(
            query[:, source],
            key,
            value,
            grid=grid,
            window=window,
            key_grid=key_grid,
            extra_key=extra_key,
            extra_value=extra_value,
            extra_mask=extra_mask,
            implementation=implementation,
        )
        return aligned[:, places]
    windows = [make_window("window", grid, window, key_grid, causal)]
    keys, values = [key], [value]
    _check(query, "query", (query.shape[0], math.prod(grid), *query.shape[2:]), query, f"grid {show(grid)}")
    if coarse is not None:
        windows.append(make_window("coarse.window", grid, coarse.window, coarse.grid))
        keys.append(coarse.key)
        values.append(coarse.value)
    geometry = Geometry(tuple(grid), tuple(windows))
    for prefix, one, k, v in zip(("", "coarse."), windows, keys, values, strict=False):
        expected = (query.shape[0], one.tokens, *query.shape[2:])
        _check(k, f"{prefix}key", expected, query, f"key grid {show(one.grid)}")
        _check(v, f"{prefix}value", expected, query, f"key grid {show(one.grid)}")
    extra = _extra(query, extra_key, extra_value, extra_mask)
    form = select(implementation)
    attend = functools.partial(find_attend(form), geometry=geometry)
    if form in ("tpu", "gpu"):
        return split_over_mesh(attend, query, tuple(keys), tuple(values), extra)
    return attend(query, tuple(keys), tuple(values), extra)


def _needs_alignment(grid: tuple[int, ...], key_grid: tuple[int, ...]) -> bool:
    """Whether `key_grid` has as many axes as `grid` and does not divide it."""
    valid = len(grid) == len(key_grid) and min(*grid, *key_grid) > 0
    return valid and any(positions % keys for positions, keys in zip(grid, key_grid, strict=True))


def find_attend(implementation: str) -> Callable:
    """Function `attend` of an implementation: "reference", "xla", "tpu" or "gpu"."""
    # Pallas is imported on use: its TPU part takes seconds to import and is not needed on CPU.
    if implementation == "reference":
        from pallas_kernels.local_attention.reference import attend
    elif implementation == "xla":
        from pallas_kernels.local_attention.xla import attend
    elif implementation == "tpu":
        from pallas_kernels.local_attention.tpu import attend
    else:
        from pallas_kernels.local_attention.gpu import attend
    return attend


def _check(array: Array, name: str, expected: tuple[int, ...], query: Array, why: str) -> None:
    if query.ndim != 4 or array.shape != expected:
        raise ValueError(
            f"{name} has shape {array.shape}, but the query {query.shape} and the {why} need "
            f"{expected if query.ndim == 4 else '(batch, tokens, heads, dim)'}."
        )
    if array.dtype != query.dtype:
        raise ValueError(
            f"{name} is {array.dtype} and the query {query.dtype}: cast them to one floating-point type."
        )


def _extra(
    query: Array, key: Array | None, value: Array | None, mask: Array | None
) -> tuple[Array, Array, Array] | None:
    if key is None and value is None and mask is None:
        return None
    if key is None or value is None:
        raise ValueError("Only one of extra_key and extra_value is given: pass both or neither.")
    expected = (query.shape[0], key.shape[1] if key.ndim > 1 else 0, *query.shape[2:])
    _check(key, "extra_key", expected, query, "extra keys")
    _check(value, "extra_value", expected, query, "extra keys")
    if mask is None:
        mask = jnp.ones(expected[:2], bool)
    if mask.shape != expected[:2] or mask.dtype != bool:
        raise ValueError(
            f"extra_mask is {mask.dtype} of shape {mask.shape}, but the extra keys need booleans of shape "
            f"{expected[:2]}."
        )
    return key, value, mask
