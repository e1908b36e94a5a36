"""Local attention in Pallas for TPU (Mosaic).

A step takes a tile of queries and, for each window, the box of keys that the tile sees: tile and halo, loaded
from padded arrays in HBM by overlapping blocks. All scores of the step are in VMEM at once, so that the
softmax, in float32, is a plain one. The backward pass keeps the log-sum-exp of each query and recomputes the
scores twice: over tiles of queries for their gradient, and over tiles of keys for theirs, where the box holds
the queries whose windows reach the tile.

HBM holds the padded inputs, the outputs and two statistics per query, but no scores: memory grows linearly
with the number of tokens.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

from pallas_kernels.local_attention.geometry import Geometry
from pallas_kernels.local_attention.pallas_tiling import (
    Axes,
    Scalar,
    Span,
    Tiling,
    box_sizes,
    box_starts,
    equal_tiles,
    find_tiling,
    positions_in,
    round_up,
    three_axes,
    visible,
)
from pallas_kernels.local_attention.tuning import settings
from pallas_kernels.numerics import COLUMNS_BY_COLUMNS, COLUMNS_BY_ROWS, NEGATIVE, ROWS_BY_ROWS, product

_LANES = 128

Extra = tuple[Array, Array, Array]


def attend(
    query: Float[Array, "batch tokens heads dim"],
    keys: tuple[Float[Array, "batch _ heads dim"], ...],
    values: tuple[Float[Array, "batch _ heads dim"], ...],
    extra: tuple[Array, Array, Bool[Array, "batch extra"]] | None,
    geometry: Geometry,
    interpret: bool = False,
) -> Float[Array, "batch tokens heads dim"]:
    """Attention over the keys of all windows and the extra keys, with a float32 softmax."""
    if extra is not None and extra[0].shape[1] == 0:
        extra = None
    if extra is not None:
        key, value, mask = extra
        more = round_up(key.shape[1], _LANES) - key.shape[1]
        key, value = (jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) for x in (key, value))
        mask = jnp.pad(mask, ((0, 0), (0, more)))
        extra = key, value, jnp.where(mask, 0.0, NEGATIVE).astype(jnp.float32)
    return _attend(query, keys, values, extra, geometry, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(query, keys, values, extra, geometry, interpret):
    return _forward(query, keys, values, extra, geometry, interpret)[0]


def _numbers(sizes: Axes, axis: int) -> Array:
    """Raster indices of a box's positions, as a column (`axis` 0) or a row (1)."""
    count = math.prod(sizes)
    return lax.broadcasted_iota(jnp.int32, (count, 1) if axis == 0 else (1, count), axis)


def _tile_positions(step: Sequence[Scalar], tile: Axes, axis: int) -> list[Array]:
    return positions_in(_numbers(tile, axis), [i * size for i, size in zip(step, tile, strict=True)], tile)


def _box_positions(step: Sequence[Scalar], box: tuple[Span, ...], axis: int) -> list[Array]:
    return positions_in(_numbers(box_sizes(box), axis), box_starts(box, step), box_sizes(box))


def _rows(ref) -> Array:
    """Block `(1, ..., width)` as a matrix `(rows, width)`."""
    return ref[...].reshape(math.prod(ref.shape[:-1]), ref.shape[-1])


def _tile_scores(query: Array, key_refs, extra_refs, tiling: Tiling, geometry: Geometry) -> list[Array]:
    """Scaled scores of the tile with each box, then with the extra keys; masked ones are `NEGATIVE`."""
    step = [pl.program_id(axis) for axis in (1, 2, 3)]
    queries = _tile_positions(step, tiling.tile, 0)
    scale = query.shape[-1] ** -0.5
    scores = []
    for ref, window, box in zip(key_refs, geometry.windows, tiling.boxes, strict=True):
        keys = _box_positions(step, box, 1)
        dots = product(query, _rows(ref), ROWS_BY_ROWS) * scale
        scores.append(jnp.where(visible(window, queries, keys, "keys"), dots, NEGATIVE))
    if extra_refs is not None:
        key_ref, _, bias_ref = extra_refs
        scores.append(product(query, key_ref[0], ROWS_BY_ROWS) * scale + bias_ref[0])
    return scores


def _forward_kernel(query_ref, key_refs, value_refs, extra_refs, out_ref, lse_ref, *, tiling, geometry):
    scores = _tile_scores(_rows(query_ref), key_refs, extra_refs, tiling, geometry)
    values = [_rows(ref) for ref in value_refs] + ([] if extra_refs is None else [extra_refs[1][0]])
    top = functools.reduce(jnp.maximum, [s.max(axis=1, keepdims=True) for s in scores])
    weights = [jnp.exp(s - top) for s in scores]
    total = sum(w.sum(axis=1, keepdims=True) for w in weights)
    out = sum(product(w.astype(v.dtype), v, COLUMNS_BY_ROWS) for w, v in zip(weights, values, strict=True))
    out_ref[...] = jnp.divide(out, total).astype(out_ref.dtype).reshape(out_ref.shape)
    lse_ref[...] = (top + jnp.log(total)).reshape(lse_ref.shape)


def _query_kernel(
    query_ref, key_refs, value_refs, extra_refs, grad_ref, stats_ref,
    out_ref, extra_out_refs, *, tiling, geometry,
):  # fmt: skip
    """Gradient of a tile of queries; accumulates the gradients of the extra keys and values."""
    query, grad = _rows(query_ref), _rows(grad_ref)
    scores = _tile_scores(query, key_refs, extra_refs, tiling, geometry)
    keys = [_rows(ref) for ref in key_refs] + ([] if extra_refs is None else [extra_refs[0][0]])
    values = [_rows(ref) for ref in value_refs] + ([] if extra_refs is None else [extra_refs[1][0]])
    out = jnp.zeros(query.shape, jnp.float32)
    for s, key, value in zip(scores, keys, values, strict=True):
        weights, slopes = _slopes(s, grad, value, _rows(stats_ref))
        out += product(slopes.astype(key.dtype), key, COLUMNS_BY_ROWS)
    out_ref[...] = out.astype(out_ref.dtype).reshape(out_ref.shape)
    if extra_refs is None:
        return

    @pl.when(sum(pl.program_id(axis) for axis in (1, 2, 3)) == 0)
    def _():
        for ref in extra_out_refs:
            ref[...] = jnp.zeros_like(ref)

    # The last iteration of the loop above was that of the extra keys.
    key_out_ref, value_out_ref = extra_out_refs
    key_out_ref[0] += product(slopes.astype(query.dtype), query, COLUMNS_BY_COLUMNS)
    value_out_ref[0] += product(weights.astype(grad.dtype), grad, COLUMNS_BY_COLUMNS)


def _slopes(scores: Array, grad: Array, value: Array, stats: Array) -> tuple[Array, Array]:
    """Softmax weights, and the gradient of the loss with respect to the scores."""
    weights = jnp.exp(scores - stats[:, 0:1])
    scale = grad.shape[-1] ** -0.5
    return weights, weights * (product(grad, value, ROWS_BY_ROWS) - stats[:, 1:2]) * scale


def _key_kernel(
    key_ref, value_ref, query_ref, grad_ref, stats_ref, key_out_ref, value_out_ref, *, tiling, window
):
    """Gradients of a tile of keys and values, from the box of queries that see it."""
    step = [pl.program_id(axis) for axis in (1, 2, 3)]
    (box,) = tiling.boxes
    queries, keys = _box_positions(step, box, 0), _tile_positions(step, tiling.tile, 1)
    query, key, grad = _rows(query_ref), _rows(key_ref), _rows(grad_ref)
    scores = product(query, key, ROWS_BY_ROWS) * query.shape[-1] ** -0.5
    scores = jnp.where(visible(window, queries, keys, "queries"), scores, NEGATIVE)
    weights, slopes = _slopes(scores, grad, _rows(value_ref), _rows(stats_ref))
    for ref, left, right in ((key_out_ref, slopes, query), (value_out_ref, weights, grad)):
        out = product(left.astype(right.dtype), right, COLUMNS_BY_COLUMNS)
        ref[...] = out.astype(ref.dtype).reshape(ref.shape)


def _tile_spec(tiling: Tiling, width: int) -> pl.BlockSpec:
    return pl.BlockSpec((1, *tiling.tile, width), lambda n, a, b, c: (n, a, b, c, 0))


def _box_spec(box: tuple[Span, ...], width: int) -> pl.BlockSpec:
    """Overlapping blocks, each of which starts at its span and not at a multiple of its size."""
    shape = tuple(pl.Element(size) for size in (1, *box_sizes(box), width))
    return pl.BlockSpec(
        shape, lambda n, *step: (n, *(span.start(i) for span, i in zip(box, step, strict=True)), 0)
    )


def _extra_specs(extra: Extra | None, heads: int) -> tuple[pl.BlockSpec, ...] | None:
    if extra is None:
        return None
    count, width = extra[0].shape[1], extra[0].shape[3]
    rows = pl.BlockSpec((1, count, width), lambda n, a, b, c: (n, 0, 0))
    return rows, rows, pl.BlockSpec((1, 1, count), lambda n, a, b, c: (n // heads, 0, 0))


def _heads_first(extra: Extra | None) -> Extra | None:
    if extra is None:
        return None
    key, value, bias = extra
    key, value = (x.transpose(0, 2, 1, 3).reshape(-1, x.shape[1], x.shape[3]) for x in (key, value))
    return key, value, bias[:, None]


def _lay_out(x: Array, grid: tuple[int, ...], left: Sequence[int], total: Sequence[int]) -> Array:
    """Lays `(batch, tokens, heads, width)` out as `(batch * heads, *total, width)`, zero-padded."""
    sizes = three_axes(grid)
    x = x.transpose(0, 2, 1, 3).reshape(-1, *sizes, x.shape[-1])
    pads = [(before, after - before - size) for before, after, size in zip(left, total, sizes, strict=True)]
    return jnp.pad(x, [(0, 0), *pads, (0, 0)])


def _lay_out_tiles(x: Array, grid: tuple[int, ...], tiling: Tiling) -> Array:
    return _lay_out(x, grid, (0, 0, 0), tiling.padded)


def _lay_out_boxes(x: Array, grid: tuple[int, ...], box: tuple[Span, ...]) -> Array:
    return _lay_out(x, grid, [span.left for span in box], [span.total for span in box])


def _tokens(x: Array, grid: tuple[int, ...], batch: int) -> Array:
    """Inverse of `_lay_out_tiles`."""
    sizes = three_axes(grid)
    x = x[:, : sizes[0], : sizes[1], : sizes[2]]
    return x.reshape(batch, -1, math.prod(grid), x.shape[-1]).transpose(0, 2, 1, 3)


def _align(dtype) -> int:
    """Rows of a native tile, of which the last axis of a box is a multiple."""
    return 32 // jnp.dtype(dtype).itemsize


def _call(kernel, tiling: Tiling, rows: int, in_specs, out_specs, out_shape, carries: bool, interpret: bool):
    """Builds the call; with `carries`, a step accumulates into the output of the previous one."""
    semantics: Any = ("parallel", *["arbitrary" if carries else "parallel"] * 3)
    return pl.pallas_call(
        kernel,
        grid=(rows, *tiling.counts),
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        compiler_params=pltpu.CompilerParams(dimension_semantics=semantics),
        interpret=interpret,
    )


def _query_side(query, keys, values, extra, geometry: Geometry, kernel: str):
    """Tiling over queries, with the specs and arrays that the forward and query kernels share."""
    width, align = query.shape[3], _align(query.dtype)
    tiling = find_tiling(
        geometry.grid,
        geometry.windows,
        equal_tiles(geometry.grid, align),
        align=align,
        max_scores=settings("tpu", kernel)["scores"],
        extra=0 if extra is None else extra[0].shape[1],
    )
    boxes = [_box_spec(box, width) for box in tiling.boxes]
    specs = (_tile_spec(tiling, width), boxes, boxes, _extra_specs(extra, query.shape[2]))

    def around(arrays):
        return [
            _lay_out_boxes(x, w.grid, box)
            for x, w, box in zip(arrays, geometry.windows, tiling.boxes, strict=True)
        ]

    arrays = (
        _lay_out_tiles(query, geometry.grid, tiling), around(keys), around(values), _heads_first(extra)
    )  # fmt: skip
    return tiling, specs, arrays


def _forward(query, keys, values, extra, geometry: Geometry, interpret: bool):
    batch, _, heads, width = query.shape
    tiling, specs, arrays = _query_side(query, keys, values, extra, geometry, "forward")
    kernel = functools.partial(_forward_kernel, tiling=tiling, geometry=geometry)
    shape = (batch * heads, *tiling.padded)
    out, lse = _call(
        kernel,
        tiling,
        batch * heads,
        specs,
        (_tile_spec(tiling, width), _tile_spec(tiling, 1)),
        (jax.ShapeDtypeStruct((*shape, width), query.dtype), jax.ShapeDtypeStruct((*shape, 1), jnp.float32)),
        False,
        interpret,
    )(*arrays)
    out, lse = _tokens(out, geometry.grid, batch), _tokens(lse, geometry.grid, batch)
    return out, (query, keys, values, extra, out, lse[..., 0])


def _backward(geometry: Geometry, interpret: bool, residuals, grad):
    query, keys, values, extra, out, lse = residuals
    delta = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    stats = jnp.stack([lse, delta], axis=-1)
    query_grad, extra_grads = _query_grads(query, keys, values, extra, grad, stats, geometry, interpret)
    pairs = [
        _key_grads(key, value, query, grad, stats, geometry, window, interpret)
        for key, value, window in zip(keys, values, geometry.windows, strict=True)
    ]
    key_grads, value_grads = zip(*pairs, strict=True)
    return query_grad, key_grads, value_grads, extra_grads


def _query_grads(query, keys, values, extra, grad, stats, geometry, interpret):
    batch, _, heads, width = query.shape
    tiling, specs, arrays = _query_side(query, keys, values, extra, geometry, "backward")
    grad, stats = (_lay_out_tiles(x, geometry.grid, tiling) for x in (grad, stats))
    extra_specs, extra_shapes = None, None
    if extra is not None:
        extra_specs = (specs[3][0],) * 2
        extra_shapes = (jax.ShapeDtypeStruct((batch * heads, extra[0].shape[1], width), jnp.float32),) * 2
    query_grad, extra_grads = _call(
        functools.partial(_query_kernel, tiling=tiling, geometry=geometry),
        tiling,
        batch * heads,
        (*specs, _tile_spec(tiling, width), _tile_spec(tiling, 2)),
        (_tile_spec(tiling, width), extra_specs),
        (jax.ShapeDtypeStruct(arrays[0].shape, query.dtype), extra_shapes),
        extra is not None,
        interpret,
    )(*arrays, grad, stats)
    if extra is not None:
        rows = [x.reshape(batch, heads, -1, width).transpose(0, 2, 1, 3) for x in extra_grads]
        extra_grads = *(x.astype(query.dtype) for x in rows), jnp.zeros_like(extra[2])
    return _tokens(query_grad, geometry.grid, batch), extra_grads


def _key_grads(key, value, query, grad, stats, geometry, window, interpret):
    batch, _, heads, width = query.shape
    align = _align(key.dtype)
    tiling = find_tiling(
        window.grid,
        (window,),
        equal_tiles(window.grid, align),
        transposed=True,
        align=align,
        max_scores=settings("tpu", "backward")["scores"],
    )
    (box,) = tiling.boxes
    tiles = [_lay_out_tiles(x, window.grid, tiling) for x in (key, value)]
    boxes = [_lay_out_boxes(x, geometry.grid, box) for x in (query, grad, stats)]
    tile_spec, box_spec = _tile_spec(tiling, width), _box_spec(box, width)
    grads = _call(
        functools.partial(_key_kernel, tiling=tiling, window=window),
        tiling,
        batch * heads,
        (tile_spec, tile_spec, box_spec, box_spec, _box_spec(box, 2)),
        (tile_spec, tile_spec),
        (jax.ShapeDtypeStruct(tiles[0].shape, key.dtype),) * 2,
        False,
        interpret,
    )(*tiles, *boxes)
    return tuple(_tokens(x, window.grid, batch) for x in grads)


_attend.defvjp(_forward, _backward)
