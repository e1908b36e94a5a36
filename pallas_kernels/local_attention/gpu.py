"""Local attention in Pallas for GPU (Triton).

A program takes a tile of queries, whose sizes are powers of two, and loops over the keys that the tile sees:
for each window the box of tile and halo, in chunks, then the extra keys, under an online softmax in float32.
Rows are gathered from the arrays as they are, so that nothing is padded or transposed in memory and the head
dim need not be a power of two. The backward pass keeps the log-sum-exp of each query. One kernel repeats the
loop for the gradient of the queries; another takes a tile of keys and loops over the queries that see it.

Pallas has two GPU backends, Triton and Mosaic GPU. Triton runs on NVIDIA GPUs since Ampere, multiplies in
float32 too and can be checked in interpret mode; Mosaic GPU needs separate code for the warpgroup products of
Hopper and of Blackwell. On the other hand, JAX develops Mosaic GPU and announced with 0.11 that a later
release will drop the Triton backend. `implementation="xla"` needs neither.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Bool, Float, Int

from pallas_kernels.local_attention.geometry import Geometry, Window
from pallas_kernels.local_attention.pallas_tiling import (
    Axes,
    Scalar,
    Tiling,
    box_sizes,
    box_starts,
    find_tiling,
    inside,
    positions_in,
    power_tiles,
    raster,
    three_axes,
    visible,
)
from pallas_kernels.local_attention.tuning import Settings, settings
from pallas_kernels.numerics import COLUMNS_BY_ROWS, NEGATIVE, ROWS_BY_ROWS, product

_NO_LIMIT = 2**62  # the chunk size bounds what a program holds
_PART = 512  # queries per program for the gradient of extra keys, which all queries see


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
        extra = *extra[:2], extra[2].astype(jnp.float32)
    return _attend(query, keys, values, extra, geometry, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(query, keys, values, extra, geometry, interpret):
    return _forward(query, keys, values, extra, geometry, interpret)[0]


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Addresses of the rows `(dim,)` of one head in a flat array `(batch, tokens, heads, dim)`.

    `head` counts heads over the whole batch. The program ids are read once and stored, because interpret mode
    does not provide them inside a loop.
    """

    tokens: int
    heads: int
    dim: int
    head: Scalar

    def _offsets(self, rows: Int[Array, " n"]) -> tuple[Int[Array, "n width"], Bool[Array, "1 width"]]:
        batch, head = self.head // self.heads, self.head % self.heads
        columns = jnp.arange(max(16, pl.next_power_of_2(self.dim)))
        first = ((batch * self.tokens + rows) * self.heads + head) * self.dim
        return first[:, None] + columns[None], (columns < self.dim)[None]

    def load(self, ref, rows: Int[Array, " n"], within: Bool[Array, " n"]) -> Float[Array, "n width"]:
        """Loads rows, with zeros where not `within` and in the padding of `dim` to a power of two."""
        offsets, columns = self._offsets(rows)
        return plgpu.load(ref.at[offsets], mask=within[:, None] & columns, other=0.0)

    def store(self, ref, rows: Int[Array, " n"], within: Bool[Array, " n"], x: Array) -> None:
        offsets, columns = self._offsets(rows)
        plgpu.store(ref.at[offsets], x.astype(ref.dtype), mask=within[:, None] & columns)

    def load_scalars(self, ref, rows: Int[Array, " n"], within: Bool[Array, " n"]) -> Float[Array, " n"]:
        """Loads scalars from an array `(batch, heads, tokens)`."""
        return plgpu.load(ref.at[self.head * self.tokens + rows], mask=within, other=0.0)

    def store_scalars(self, ref, rows: Int[Array, " n"], within: Bool[Array, " n"], x: Array) -> None:
        plgpu.store(ref.at[self.head * self.tokens + rows], x, mask=within)


@dataclasses.dataclass(frozen=True)
class _Walk:
    """Loop over positions of the other side: their row indices, whether they exist, and the mask."""

    tokens: int
    count: int
    locate: Callable[[Int[Array, " n"]], tuple[Array, Array, Array]]

    def fold(self, chunk: int, visit: Callable, carry):
        """Folds `carry = visit(rows, within, seen, carry)` over all positions, `chunk` at a time."""

        def body(i, carry):
            return visit(*self.locate(i * chunk + jnp.arange(chunk)), carry)

        return lax.fori_loop(0, pl.cdiv(self.count, chunk), body, carry)


def _step(tiling: Tiling) -> list[Array]:
    """Index of this program's tile along three axes."""
    i, counts = pl.program_id(0), tiling.counts
    return [i // (counts[1] * counts[2]), i // counts[2] % counts[1], i % counts[2]]


def _tile(tiling: Tiling) -> list[Array]:
    starts = [i * size for i, size in zip(_step(tiling), tiling.tile, strict=True)]
    return positions_in(jnp.arange(math.prod(tiling.tile)), starts, tiling.tile)


def _along(axis: int, positions: list[Array]) -> list[Array]:
    return [jnp.expand_dims(position, 1 - axis) for position in positions]


def _walk_keys(tiling: Tiling, box, window: Window) -> _Walk:
    """Loop over the keys of `window` that the tile of queries may see."""
    queries, grid = _along(0, _tile(tiling)), three_axes(window.grid)
    starts, sizes = box_starts(box, _step(tiling)), box_sizes(box)

    def locate(numbers):
        keys = positions_in(numbers, starts, sizes)
        return raster(keys, grid), inside(keys, grid), visible(window, queries, _along(1, keys), "keys")

    return _Walk(window.tokens, math.prod(sizes), locate)


def _walk_queries(tiling: Tiling, box, window: Window, grid: Axes) -> _Walk:
    """Loop over the queries that may see the tile of keys."""
    keys = _along(0, _tile(tiling))
    starts, sizes = box_starts(box, _step(tiling)), box_sizes(box)

    def locate(numbers):
        queries = positions_in(numbers, starts, sizes)
        seen = visible(window, _along(1, queries), keys, "queries")
        return raster(queries, grid), inside(queries, grid), seen

    return _Walk(math.prod(grid), math.prod(sizes), locate)


def _load_mask(mask_ref, head: Scalar, heads: int, numbers: Array, count: int) -> Array:
    return plgpu.load(mask_ref.at[head // heads * count + numbers], mask=numbers < count, other=0.0) > 0


def _walk_extra(mask_ref, layout: _Rows) -> _Walk:
    """Loop over the extra keys, which all queries see."""

    def locate(numbers):
        seen = _load_mask(mask_ref, layout.head, layout.heads, numbers, layout.tokens)
        return numbers, numbers < layout.tokens, seen[None]

    return _Walk(layout.tokens, layout.tokens, locate)


def _walk_part(seen: Array, tokens: int) -> _Walk:
    """Loop over this program's part of the queries, for a tile of extra keys with the mask `seen`."""
    first = pl.program_id(2) * _PART

    def locate(numbers):
        queries = first + numbers
        within = queries < tokens
        return queries, within, seen[:, None] & within[None]

    return _Walk(tokens, min(_PART, tokens), locate)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Static sizes of a kernel over tiles of queries."""

    tiling: Tiling
    geometry: Geometry
    heads: int
    dim: int
    extra: int
    chunk: int

    def rows(self, tokens: int) -> _Rows:
        return _Rows(tokens, self.heads, self.dim, pl.program_id(1))

    def tile_rows(self) -> tuple[Array, Array]:
        grid = three_axes(self.geometry.grid)
        return raster(_tile(self.tiling), grid), inside(_tile(self.tiling), grid)

    def fold_keys(self, key_refs, value_refs, mask_ref, visit: Callable, carry):
        """Folds `carry = visit(key, value, seen, carry)` over the keys of all windows and the extra keys."""
        walks = [
            _walk_keys(self.tiling, b, w)
            for b, w in zip(self.tiling.boxes, self.geometry.windows, strict=True)
        ]
        if mask_ref is not None:
            walks.append(_walk_extra(mask_ref, self.rows(self.extra)))
        for refs, walk in zip(zip(key_refs, value_refs, strict=True), walks, strict=True):
            load = functools.partial(_load_and_visit, visit, refs, self.rows(walk.tokens))
            carry = walk.fold(self.chunk, load, carry)
        return carry


def _load_and_visit(visit: Callable, refs, layout: _Rows, rows, within, seen, carry):
    return visit(*(layout.load(ref, rows, within) for ref in refs), seen, carry)


def _forward_kernel(query_ref, key_refs, value_refs, mask_ref, out_ref, lse_ref, *, plan: _Plan):
    where, layout = plan.tile_rows(), plan.rows(plan.geometry.tokens)
    query = layout.load(query_ref, *where)
    scale = plan.dim**-0.5

    def visit(key, value, seen, carry):
        top, total, out = carry
        scores = jnp.where(seen, product(query, key, ROWS_BY_ROWS) * scale, NEGATIVE)
        new_top = jnp.maximum(top, scores.max(axis=1))
        # Weights are wrong until a row has seen its first key; `shrink` is then zero and discards them.
        shrink, weights = jnp.exp(top - new_top), jnp.exp(scores - new_top[:, None])
        out = out * shrink[:, None] + product(weights.astype(value.dtype), value, COLUMNS_BY_ROWS)
        return new_top, total * shrink + weights.sum(axis=1), out

    rows = query.shape[0]
    carry = jnp.full(rows, NEGATIVE), jnp.zeros(rows), jnp.zeros(query.shape, jnp.float32)
    top, total, out = plan.fold_keys(key_refs, value_refs, mask_ref, visit, carry)
    layout.store(out_ref, *where, out / total[:, None])
    layout.store_scalars(lse_ref, *where, top + jnp.log(total))


def _query_kernel(
    query_ref, key_refs, value_refs, mask_ref, grad_ref, lse_ref, delta_ref, out_ref, *, plan: _Plan
):
    """Gradient of a tile of queries."""
    where, layout = plan.tile_rows(), plan.rows(plan.geometry.tokens)
    query, grad = (layout.load(ref, *where) for ref in (query_ref, grad_ref))
    lse, delta = (layout.load_scalars(ref, *where)[:, None] for ref in (lse_ref, delta_ref))
    scale = plan.dim**-0.5

    def visit(key, value, seen, out):
        scores = jnp.where(seen, product(query, key, ROWS_BY_ROWS) * scale, NEGATIVE)
        slopes = jnp.exp(scores - lse) * (product(grad, value, ROWS_BY_ROWS) - delta) * scale
        return out + product(slopes.astype(key.dtype), key, COLUMNS_BY_ROWS)

    out = plan.fold_keys(key_refs, value_refs, mask_ref, visit, jnp.zeros(query.shape, jnp.float32))
    layout.store(out_ref, *where, out)


def _key_kernel(
    key_ref, value_ref, mask_ref, query_ref, grad_ref, lse_ref, delta_ref, key_out_ref, value_out_ref,
    *, tiling: Tiling, window: Window | None, grid: tuple[int, ...], shape: tuple[int, int, int], chunk: int,
):  # fmt: skip
    """Gradients of a tile of keys and values of `window`, or of the extra keys if `window` is None.

    For extra keys, a program computes the contribution of its part of the queries.
    """
    positions = _tile(tiling)
    tokens, heads, dim = shape
    keys = outs = _Rows(tokens, heads, dim, pl.program_id(1))
    queries = dataclasses.replace(keys, tokens=math.prod(grid))
    if window is None:
        where = positions[2], positions[2] < tokens
        outs = dataclasses.replace(keys, head=keys.head + pl.program_id(2) * pl.num_programs(1))
        walk = _walk_part(_load_mask(mask_ref, keys.head, heads, positions[2], tokens), queries.tokens)
    else:
        sizes = three_axes(window.grid)
        where = raster(positions, sizes), inside(positions, sizes)
        walk = _walk_queries(tiling, tiling.boxes[0], window, three_axes(grid))
    key, value = (keys.load(ref, *where) for ref in (key_ref, value_ref))
    scale = dim**-0.5

    def visit(rows, within, seen, carry):
        key_out, value_out = carry
        query, grad = (queries.load(ref, rows, within) for ref in (query_ref, grad_ref))
        lse, delta = (queries.load_scalars(ref, rows, within)[None] for ref in (lse_ref, delta_ref))
        scores = jnp.where(seen, product(key, query, ROWS_BY_ROWS) * scale, NEGATIVE)
        weights = jnp.exp(scores - lse)
        slopes = weights * (product(value, grad, ROWS_BY_ROWS) - delta) * scale
        key_out += product(slopes.astype(query.dtype), query, COLUMNS_BY_ROWS)
        return key_out, value_out + product(weights.astype(grad.dtype), grad, COLUMNS_BY_ROWS)

    key_out, value_out = walk.fold(chunk, visit, (jnp.zeros(key.shape, jnp.float32),) * 2)
    outs.store(key_out_ref, *where, key_out)
    outs.store(value_out_ref, *where, value_out)


def _call(kernel, name: str, blocks: Settings, programs: tuple[int, ...], shapes, interpret: bool):
    return pl.pallas_call(
        kernel,
        grid=programs,
        out_shape=shapes,
        compiler_params=plgpu.CompilerParams(num_warps=blocks["warps"], num_stages=blocks["stages"]),
        interpret=interpret,
        name=name,
    )


def _query_side(query, keys, values, extra, geometry: Geometry, blocks: Settings):
    """Plan of a kernel over tiles of queries, its launch grid, and the flat arrays that it reads."""
    batch, _, heads, dim = query.shape
    tiles = power_tiles(geometry.grid, blocks["tile"])
    tiling = find_tiling(geometry.grid, geometry.windows, tiles, max_scores=_NO_LIMIT)
    count, mask = 0, None
    if extra is not None:
        keys, values, mask = (*keys, extra[0]), (*values, extra[1]), extra[2].reshape(-1)
        count = extra[0].shape[1]
    plan = _Plan(tiling, geometry, heads, dim, count, blocks["chunk"])
    arrays = query.reshape(-1), [x.reshape(-1) for x in keys], [x.reshape(-1) for x in values], mask
    return plan, (math.prod(tiling.counts), batch * heads), arrays


def _forward(query, keys, values, extra, geometry: Geometry, interpret: bool):
    blocks = settings("gpu", "forward")
    plan, programs, arrays = _query_side(query, keys, values, extra, geometry, blocks)
    shapes = (
        jax.ShapeDtypeStruct((query.size,), query.dtype),
        jax.ShapeDtypeStruct((query.size // query.shape[3],), jnp.float32),
    )
    kernel = functools.partial(_forward_kernel, plan=plan)
    out, lse = _call(kernel, "local_attention", blocks, programs, shapes, interpret)(*arrays)
    out = out.reshape(query.shape)
    return out, (query, keys, values, extra, out, lse)


def _backward(geometry: Geometry, interpret: bool, residuals, grad):
    query, keys, values, extra, out, lse = residuals
    delta = jnp.einsum("bnhd,bnhd->bhn", grad, out, preferred_element_type=jnp.float32).reshape(-1)
    blocks = settings("gpu", "backward")
    plan, programs, arrays = _query_side(query, keys, values, extra, geometry, blocks)
    shape = jax.ShapeDtypeStruct((query.size,), query.dtype)
    call = _call(
        functools.partial(_query_kernel, plan=plan), "query_gradient", blocks, programs, shape, interpret
    )
    statistics = grad.reshape(-1), lse, delta
    query_grad = call(*arrays, *statistics).reshape(query.shape)
    by_queries = arrays[0], *statistics

    def key_grads(key, value, mask, window):
        return _key_grads(key, value, mask, by_queries, geometry, window, blocks, interpret)

    pairs = [key_grads(k, v, None, w) for k, v, w in zip(keys, values, geometry.windows, strict=True)]
    key_out, value_out = zip(*pairs, strict=True)
    extra_grads = None
    if extra is not None:
        extra_grads = *key_grads(extra[0], extra[1], arrays[3], None), jnp.zeros_like(extra[2])
    return query_grad, key_out, value_out, extra_grads


def _key_grads(key, value, mask, by_queries, geometry: Geometry, window: Window | None, blocks, interpret):
    batch, tokens, heads, _ = key.shape
    grid = (tokens,) if window is None else window.grid
    windows = () if window is None else (window,)
    tiles = power_tiles(grid, blocks["tile"])
    tiling = find_tiling(grid, windows, tiles, transposed=True, max_scores=_NO_LIMIT)
    kernel = functools.partial(
        _key_kernel,
        tiling=tiling,
        window=window,
        grid=geometry.grid,
        shape=key.shape[1:],
        chunk=blocks["chunk"],
    )
    # Extra keys are few, so that their tiles alone would leave most of a GPU idle.
    parts = 1 if window else pl.cdiv(math.prod(geometry.grid), _PART)
    shape = jax.ShapeDtypeStruct((parts * key.size,), key.dtype if parts == 1 else jnp.float32)
    name = "key_gradient" if window else "extra_key_gradient"
    programs = math.prod(tiling.counts), batch * heads, parts
    call = _call(kernel, name, blocks, programs, (shape, shape), interpret)
    grads = call(key.reshape(-1), value.reshape(-1), mask, *by_queries)
    return tuple(x.reshape(parts, *key.shape).sum(0).astype(key.dtype) for x in grads)


_attend.defvjp(_forward, _backward)
