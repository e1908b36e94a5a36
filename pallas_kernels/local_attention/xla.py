"""Local attention in plain JAX: one tile of queries at a time against the keys that the tile can see.

A tile's keys are the box around it in each window (its halo) and the extra keys, side by side; inside a tile
attention is dense under a mask. So both products are plain batched matrix products, which a CPU does best,
and the scores in memory are those of one tile. The backward pass goes over the tiles again, makes the weights
anew from the log-sum-exp, and adds the gradients of each halo where they belong.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.local_attention.geometry import Geometry, Window

Extra = tuple[Array, Array, Array]
_NEGATIVE = -1e30  # finite, so that the padding of the last tiles, which sees nothing, stays a number
_TILE_TOKENS = 128  # queries in a tile, at most about


@dataclasses.dataclass(frozen=True)
class Tiles:
    """`counts` tiles of `sizes` places cover the queries' grid, one entry an axis."""

    sizes: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def number(self) -> int:
        return math.prod(self.counts)

    @property
    def tokens(self) -> int:
        return math.prod(self.sizes)

    def split(self, x: Array, grid: Sequence[int]) -> Array:
        """`(batch, tokens, heads, dim)` to `(tiles, batch, heads, tile tokens, dim)`, padded with zeros."""
        batch, _, heads, dim = x.shape
        axes = len(grid)
        x = x.reshape(batch, *grid, heads, dim)
        pad = [(0, size * count - places) for size, count, places in zip(self.sizes, self.counts, grid)]
        x = jnp.pad(x, [(0, 0), *pad, (0, 0), (0, 0)])
        x = x.reshape(batch, *(n for pair in zip(self.counts, self.sizes) for n in pair), heads, dim)
        counts, sizes = range(1, 2 * axes + 1, 2), range(2, 2 * axes + 1, 2)
        x = x.transpose(*counts, 0, 2 * axes + 1, *sizes, 2 * axes + 2)
        return x.reshape(self.number, batch, heads, self.tokens, dim)

    def join(self, x: Array, grid: Sequence[int]) -> Array:
        """The inverse of `split`."""
        _, batch, heads, _, dim = x.shape
        axes = len(grid)
        x = x.reshape(*self.counts, batch, heads, *self.sizes, dim)
        order = [n for axis in range(axes) for n in (axis, axes + 2 + axis)]
        x = x.transpose(axes, *order, axes + 1, 2 * axes + 2)
        x = x.reshape(batch, *(size * count for size, count in zip(self.sizes, self.counts)), heads, dim)
        x = x[:, *(slice(places) for places in grid)]
        return x.reshape(batch, math.prod(grid), heads, dim)

    def origin(self, index: Array) -> tuple[Array, ...]:
        """The first place of tile `index`."""
        return tuple(i * size for i, size in zip(jnp.unravel_index(index, self.counts), self.sizes))


def choose_tiles(geometry: Geometry, tile_tokens: int = _TILE_TOKENS) -> Tiles:
    """Tiles as near to cubes of `tile_tokens` places as the grid allows, so balanced that little is padded."""
    sizes: list[int] = []
    left = tile_tokens
    for axis in sorted(range(len(geometry.grid)), key=lambda axis: geometry.grid[axis]):
        places, axes = geometry.grid[axis], len(geometry.grid) - len(sizes)
        most = max(1, min(places, round(left ** (1 / axes))))
        sizes.append(-(-places // -(-places // most)))
        left = max(1, left // sizes[-1])
    order = sorted(range(len(geometry.grid)), key=lambda axis: geometry.grid[axis])
    by_axis = tuple(size for _, size in sorted(zip(order, sizes)))
    return Tiles(by_axis, tuple(-(-places // size) for places, size in zip(geometry.grid, by_axis)))


@dataclasses.dataclass(frozen=True)
class Halo:
    """The box of a window's keys that any query of a tile sees; it is moved inside the grid at the edges."""

    window: Window
    tiles: Tiles

    @property
    def sizes(self) -> tuple[int, ...]:
        window = self.window
        return tuple(
            min(keys, (size + factor - 2) // factor + extent)
            for keys, size, factor, extent in zip(
                window.grid, self.tiles.sizes, window.factor, window.extents
            )
        )

    @property
    def tokens(self) -> int:
        return math.prod(self.sizes)

    def start(self, origin: Sequence[Array]) -> tuple[Array, ...]:
        """The box's first place, for a tile that begins at `origin`."""
        window = self.window
        return tuple(
            jnp.clip(first // factor - radius, 0, keys - size)
            for first, factor, radius, keys, size in zip(
                origin, window.factor, window.radii, window.grid, self.sizes
            )
        )

    def read(self, x: Array, start: Sequence[Array]) -> Array:
        """`(batch, heads, *grid, dim)` to the box `(batch, heads, box tokens, dim)`."""
        batch, heads, dim = *x.shape[:2], x.shape[-1]
        box = jax.lax.dynamic_slice(x, (0, 0, *start, 0), (batch, heads, *self.sizes, dim))
        return box.reshape(batch, heads, self.tokens, dim)

    def add(self, x: Array, box: Array, start: Sequence[Array]) -> Array:
        """`x` with `box` added in its place."""
        batch, heads, dim = *x.shape[:2], x.shape[-1]
        shape = (batch, heads, *self.sizes, dim)
        old = jax.lax.dynamic_slice(x, (0, 0, *start, 0), shape)
        return jax.lax.dynamic_update_slice(x, old + box.reshape(shape), (0, 0, *start, 0))

    def visible(self, origin: Sequence[Array], start: Sequence[Array]) -> Array:
        """Bool `(tile tokens, box tokens)`: who sees whom."""
        window, axes = self.window, len(self.sizes)
        near = jnp.ones((1,) * (2 * axes), bool)
        later = jnp.zeros((1,) * (2 * axes), bool)  # in raster order, by the axes so far
        level = jnp.ones((1,) * (2 * axes), bool)  # the same place, by the axes so far
        for axis in range(axes):
            query = origin[axis] + jax.lax.iota(jnp.int32, self.tiles.sizes[axis])
            key = start[axis] + jax.lax.iota(jnp.int32, self.sizes[axis])
            ahead = key - (query // window.factor[axis])[:, None]
            ahead = jnp.expand_dims(ahead, [i for i in range(2 * axes) if i not in (axis, axes + axis)])
            near &= jnp.abs(ahead) <= window.radii[axis]
            later |= level & (ahead > 0)
            level &= ahead == 0
        if window.causal:
            near &= ~later
        return near.reshape(self.tiles.tokens, self.tokens)


def _heads_first(x: Array, grid: Sequence[int]) -> Array:
    """`(batch, tokens, heads, dim)` to `(batch, heads, *grid, dim)`."""
    batch, _, heads, dim = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, heads, *grid, dim)


def _tokens_first(x: Array) -> Array:
    """The inverse of `_heads_first`."""
    batch, heads, *grid, dim = x.shape
    return x.reshape(batch, heads, math.prod(grid), dim).transpose(0, 2, 1, 3)


@dataclasses.dataclass(frozen=True)
class _Tile:
    """What the tiles share in both passes."""

    tiles: Tiles
    halos: tuple[Halo, ...]
    scale: float


def _plan(geometry: Geometry) -> tuple[Tiles, tuple[Halo, ...]]:
    tiles = choose_tiles(geometry)
    return tiles, tuple(Halo(window, tiles) for window in geometry.windows)


def _gather(halos, starts, grids, extra):
    parts = [halo.read(x, start) for halo, start, x in zip(halos, starts, grids)]
    return jnp.concatenate(parts if extra is None else [*parts, extra], axis=2)


def _mask(halos, origin, starts, extra_mask):
    parts = [halo.visible(origin, start) for halo, start in zip(halos, starts)]
    mask = jnp.concatenate(parts, axis=1)[None, None]
    if extra_mask is None:
        return mask
    shape = (extra_mask.shape[0], 1, mask.shape[2], extra_mask.shape[1])
    extra_mask = jnp.broadcast_to(extra_mask[:, None, None], shape)
    return jnp.concatenate([jnp.broadcast_to(mask, (*shape[:3], mask.shape[3])), extra_mask], axis=3)


def _dot(spec: str, a: Array, b: Array) -> Array:
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend(
    query: Float[Array, "batch tokens heads dim"],
    keys: tuple[Float[Array, "batch _ heads dim"], ...],
    values: tuple[Float[Array, "batch _ heads dim"], ...],
    extra: Extra | None,
    geometry: Geometry,
) -> Float[Array, "batch tokens heads dim"]:
    """Softmax in float32 over the keys of all windows and the extra keys, tile by tile."""
    return _forward(query, keys, values, extra, geometry)[0]


def _forward(query, keys, values, extra, geometry):
    tiles, halos = _plan(geometry)
    scale = query.shape[-1] ** -0.5
    grids = [w.grid for w in geometry.windows]
    key_grids, value_grids = (tuple(map(_heads_first, xs, grids)) for xs in (keys, values))
    extra_key, extra_value = (None, None) if extra is None else (x.transpose(0, 2, 1, 3) for x in extra[:2])
    extra_mask = None if extra is None else extra[2]

    def one_tile(_, inputs):
        index, q = inputs
        origin = tiles.origin(index)
        starts = [halo.start(origin) for halo in halos]
        k = _gather(halos, starts, key_grids, extra_key)
        v = _gather(halos, starts, value_grids, extra_value)
        mask = _mask(halos, origin, starts, extra_mask)
        scores = jnp.where(mask, _dot("bhqd,bhkd->bhqk", q, k) * scale, _NEGATIVE)
        largest = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = weights.sum(axis=-1, keepdims=True)
        out = _dot("bhqk,bhkd->bhqd", weights.astype(v.dtype), v) / total
        return None, (out.astype(q.dtype), largest + jnp.log(total))

    q_tiles = tiles.split(query, geometry.grid)
    _, (out, lse) = jax.lax.scan(one_tile, None, (jnp.arange(tiles.number), q_tiles))
    out = tiles.join(out, geometry.grid)
    return out, (query, keys, values, extra, out, lse)


def _backward(geometry, residuals, cotangent):
    query, keys, values, extra, out, lse = residuals
    tiles, halos = _plan(geometry)
    scale = query.shape[-1] ** -0.5
    grids = [w.grid for w in geometry.windows]
    key_grids, value_grids = (tuple(map(_heads_first, xs, grids)) for xs in (keys, values))
    extra_key, extra_value = (None, None) if extra is None else (x.transpose(0, 2, 1, 3) for x in extra[:2])
    extra_mask = None if extra is None else extra[2]
    edges = [sum(h.tokens for h in halos[: i + 1]) for i in range(len(halos))]

    def one_tile(carry, inputs):
        index, q, o, d_out, lse = inputs
        origin = tiles.origin(index)
        starts = [halo.start(origin) for halo in halos]
        k = _gather(halos, starts, key_grids, extra_key)
        v = _gather(halos, starts, value_grids, extra_value)
        mask = _mask(halos, origin, starts, extra_mask)
        delta = (d_out.astype(jnp.float32) * o.astype(jnp.float32)).sum(axis=-1, keepdims=True)
        scores = _dot("bhqd,bhkd->bhqk", q, k) * scale
        weights = jnp.where(mask, jnp.exp(scores - lse), 0.0)
        d_scores = (weights * (_dot("bhqd,bhkd->bhqk", d_out, v) - delta) * scale).astype(q.dtype)
        dq = _dot("bhqk,bhkd->bhqd", d_scores, k)
        dk = _dot("bhqk,bhqd->bhkd", d_scores, q)
        dv = _dot("bhqk,bhqd->bhkd", weights.astype(q.dtype), d_out)
        new = []
        for (sums, extra_sum), d in zip(carry, (dk, dv)):
            parts = jnp.split(d, edges, axis=2)
            sums = tuple(h.add(x, part, s) for h, x, part, s in zip(halos, sums, parts, starts))
            new.append((sums, None if extra_sum is None else extra_sum + parts[-1]))
        return tuple(new), dq.astype(q.dtype)

    def zeros(grids, extra):
        f32 = jnp.float32
        return tuple(jnp.zeros(x.shape, f32) for x in grids), None if extra is None else jnp.zeros(
            extra.shape, f32
        )

    split = lambda x: tiles.split(x, geometry.grid)  # noqa: E731
    xs = (jnp.arange(tiles.number), split(query), split(out), split(cotangent), lse)
    sums, dq = jax.lax.scan(one_tile, (zeros(key_grids, extra_key), zeros(value_grids, extra_value)), xs)
    dtype = query.dtype
    (dk, extra_dk), (dv, extra_dv) = sums
    dk, dv = (tuple(_tokens_first(x).astype(dtype) for x in xs) for xs in (dk, dv))
    d_extra = None
    if extra is not None:
        d_extra = (
            extra_dk.transpose(0, 2, 1, 3).astype(dtype),
            extra_dv.transpose(0, 2, 1, 3).astype(dtype),
            None,
        )
    return tiles.join(dq, geometry.grid), dk, dv, d_extra


attend.defvjp(_forward, _backward)
