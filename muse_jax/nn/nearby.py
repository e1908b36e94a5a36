"""3D nearby attention of NUWA (arXiv 2111.12417, section 3.2), over whole grids and a few places at a time.

Places of a grid, such as (frame, row, column), are numbered in raster order. All functions of grids and
windows are computed on the host and become constants of a program. A place sees what is in any of its
`Windows`: one box around it (nearby and full attention), or a line along each axis (axial attention).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from muse_jax.nn.attention import attend
from muse_jax.nn.axial import axial_attention
from pallas_kernels.local_attention import local_attention

SHIFTS = ("raster", "3d", "none")
ATTENTIONS = ("nearby", "axial", "full")
Windows = tuple[tuple[int, ...], ...]
"""Odd extents along each axis, of one box, or of one line for each axis."""


def make_windows(attention: str, grid: tuple[int, ...], window: tuple[int, ...]) -> Windows:
    """The windows of one of `ATTENTIONS`: `window`, lines through the whole grid, or the whole grid."""
    if attention == "nearby":
        return (tuple(window),)
    whole = [2 * size - 1 for size in grid]
    if attention == "full":
        return (tuple(whole),)
    return tuple(
        tuple(np.where(np.arange(len(grid)) == axis, whole, 1).tolist()) for axis in range(len(grid))
    )


@functools.cache
def input_places(grid: tuple[int, ...], shift: str) -> Int[np.ndarray, "places inputs"]:
    """The places whose tokens each place reads as its input; -1 lies before the grid.

    Args:
      grid: sizes of the axes.
      shift: "raster", the previous place in raster order (NUWA); "3d", the previous place along each axis;
        "none", the place itself.
    """
    count = math.prod(grid)
    if shift == "raster":
        return np.arange(count)[:, None] - 1
    if shift == "none":
        return np.arange(count)[:, None]
    numbers = np.arange(count).reshape(grid)
    before = []
    for axis in range(len(grid)):
        along = np.moveaxis(numbers, axis, 0)
        shifted = np.concatenate([np.full_like(along[:1], -1), along[:-1]])
        before.append(np.moveaxis(shifted, 0, axis).ravel())
    return np.stack(before, axis=1)


@functools.cache
def neighbors(
    grid: tuple[int, ...], windows: Windows, key_grid: tuple[int, ...], earlier: bool
) -> tuple[Int[np.ndarray, "places window"], Bool[np.ndarray, "places window"]]:
    """The keys in the windows of each place, each once, and whether each of them is on the key grid.

    The windows of place i of an axis are centred on `i * keys // places`.

    Args:
      grid, key_grid: sizes of the axes.
      windows: what reaches beyond the whole key grid is cut.
      earlier: only keys before the place in raster order; `key_grid` is `grid`.
    """
    boxes = []
    for window in windows:
        radii = [min(extent // 2, keys - 1) for extent, keys in zip(window, key_grid, strict=True)]
        box = np.meshgrid(*(np.arange(-r, r + 1) for r in radii), indexing="ij")
        boxes.append(np.stack(box, axis=-1).reshape(-1, len(grid)))
    offsets = np.unique(np.concatenate(boxes), axis=0)  # in raster order, the centre in the middle
    if earlier:
        offsets = offsets[: len(offsets) // 2]
    places = np.stack(np.unravel_index(np.arange(math.prod(grid)), grid), axis=-1)
    keys = (places * key_grid // np.array(grid))[:, None] + offsets
    seen = np.all((keys >= 0) & (keys < key_grid), axis=-1)
    index = np.ravel_multi_index(np.moveaxis(keys, -1, 0), key_grid, mode="clip")
    return index.astype(np.int32), seen


@struct.dataclass
class Context:
    """Keys and values of a layer's cross-attention.

    Fields:
      text: keys and values of the text, seen from everywhere, each (batch, text, heads, dim).
      mask: True for real text tokens.
      grid: keys and values on `key_grid`, seen through the window; None without a condition on a grid.
    """

    text: tuple[Array, Array]
    mask: Bool[Array, "batch text"]
    grid: tuple[Array, Array] | None = None
    key_grid: tuple[int, ...] = struct.field(pytree_node=False, default=())


def attend_to_context(
    query: Float[Array, "batch places heads dim"],
    context: Context,
    grid: tuple[int, ...],
    windows: Windows,
) -> Float[Array, "batch places heads dim"]:
    """Attention of all places of `grid` to the text and to the condition near each of them."""
    if context.grid is None:
        query, key, value = (x.swapaxes(1, 2) for x in (query, *context.text))
        return attend(query, key, value, context.mask).swapaxes(1, 2)
    return attend_windows(
        query,
        *context.grid,
        grid=grid,
        windows=windows,
        key_grid=context.key_grid,
        extra_key=context.text[0],
        extra_value=context.text[1],
        extra_mask=context.mask,
    )


def attend_windows(
    query: Float[Array, "batch places heads dim"],
    key: Float[Array, "batch keys heads dim"],
    value: Float[Array, "batch keys heads dim"],
    *,
    windows: Windows,
    **options: Any,
) -> Float[Array, "batch places heads dim"]:
    """Attention of all places of a grid to what each sees; `options` as of `local_attention`."""
    if len(windows) == 1:
        return local_attention(query, key, value, window=windows[0], **options)
    return axial_attention(query, key, value, **options)


def attend_places_to_context(
    query: Float[Array, "batch places heads dim"],
    context: Context,
    index: Int[Array, "places window"] | None,
    seen: Bool[Array, "places window"] | None,
) -> Float[Array, "batch places heads dim"]:
    """`attend_to_context` of a few places, given their `neighbors` on the grid of the condition, if any."""
    text = _scores("bmhd,bthd->bhmt", query, context.text[0])
    scores = [jnp.where(context.mask[:, None, None], text, -jnp.inf)]
    if context.grid is not None and seen is not None:
        near = _scores("bmhd,bmwhd->bhmw", query, context.grid[0][:, index])
        scores.append(jnp.where(seen, near, -jnp.inf))
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1)).astype(query.dtype)
    count = text.shape[-1]
    out = jnp.einsum("bhmt,bthd->bmhd", weights[..., :count], context.text[1])
    if context.grid is not None:
        out += jnp.einsum("bhmw,bmwhd->bmhd", weights[..., count:], context.grid[1][:, index])
    return out


def attend_places(
    query: Float[Array, "batch places heads dim"],
    own: tuple[Array, Array],
    earlier: tuple[Array, Array],
    seen: Bool[Array, "places slots"],
) -> Float[Array, "batch places heads dim"]:
    """Causal self-attention of a few places: each to itself and to the cached places in its window.

    Args:
      own: their keys and values (batch, places, heads, dim).
      earlier: cached keys and values (batch, heads, slots, dim), heads first for plain batched products.
      seen: the slots that each place sees.
    """
    key, value = earlier
    near = jnp.where(seen, _scores("bmhd,bhsd->bhms", query, key), -jnp.inf)
    itself = _scores("bmhd,bmhd->bhm", query, own[0])[..., None]
    weights = jax.nn.softmax(jnp.concatenate([near, itself], axis=-1)).astype(query.dtype)
    out = jnp.einsum("bhms,bhsd->bmhd", weights[..., :-1], value)
    return out + jnp.einsum("bhm,bmhd->bmhd", weights[..., -1], own[1])


def sees(
    places: Int[Array, " places"],
    others: Int[Array, " others"],
    grid: tuple[int, ...],
    windows: Windows,
) -> Bool[Array, "places others"]:
    """Whether each of `others` is in a window of a place and before it; what is not on the grid is not."""
    before = (others < jnp.minimum(places, math.prod(grid))[:, None]) & (others >= 0)
    ours, theirs = (jnp.stack(jnp.unravel_index(x, grid), axis=-1) for x in (places, others))
    distance = jnp.abs(theirs - ours[:, None])
    near = [jnp.all(distance <= np.array(window) // 2, axis=-1) for window in windows]
    return before & functools.reduce(jnp.logical_or, near)


def _scores(equation: str, query: Array, key: Array) -> Array:
    scores = jnp.einsum(equation, query, key, preferred_element_type=jnp.float32)
    return scores * query.shape[-1] ** -0.5
