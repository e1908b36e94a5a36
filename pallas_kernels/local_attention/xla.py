"""Local attention in plain JAX: a scan over tiles of queries, each against the keys that it can see.

The keys of a tile are the box around it in each window, followed by the extra keys; attention within a tile
is dense under a mask. The work is therefore plain batched matrix products, which suit CPUs best, and only the
scores of one tile are in memory. The backward pass scans over the tiles again, recomputes the weights from
the log-sum-exp and adds the gradients of each box in position.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.local_attention.geometry import Geometry
from pallas_kernels.local_attention.reference import Extra
from pallas_kernels.local_attention.xla_tiling import Halo, Tiles, choose_tiles
from pallas_kernels.numerics import NEGATIVE

_MAX_TOKENS = 256  # per tile

_dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _pool(key: Array, value: Array, grid: tuple[int, ...]) -> Array:
    """Key and value `(batch, positions, heads, dim)` as one array `(2, batch, heads, *grid, dim)`."""
    both = jnp.stack([key, value]).swapaxes(2, 3)
    return both.reshape(*both.shape[:3], *grid, both.shape[-1])


def _unpool(pool: Array) -> tuple[Array, Array]:
    """Inverse of `_pool`."""
    both = pool.reshape(*pool.shape[:3], -1, pool.shape[-1]).swapaxes(2, 3)
    return both[0], both[1]


class _Problem:
    """Data that both passes share: tiles, halos, and the keys and values that tiles read."""

    def __init__(
        self, keys: tuple[Array, ...], values: tuple[Array, ...], extra: Extra | None, geometry: Geometry
    ):
        extra_tokens = 0 if extra is None else extra[0].shape[1]
        self.tiles: Tiles = choose_tiles(geometry, extra_tokens, _MAX_TOKENS)
        self.halos = [Halo(window, self.tiles) for window in geometry.windows]
        self.pools = [_pool(k, v, w.grid) for k, v, w in zip(keys, values, geometry.windows, strict=True)]
        batch, _, heads, dim = keys[0].shape
        empty = jnp.zeros((batch, 0, heads, dim), keys[0].dtype)
        extra_key, extra_value, self.extra_mask = extra or (empty, empty, jnp.zeros((batch, 0), bool))
        self.extra_pool = _pool(extra_key, extra_value, extra_key.shape[1:2])

    def read(self, index: Array) -> tuple[Array, Array, list[tuple[Array, ...]]]:
        """Key and value `(2, batch, heads, seen, dim)` of a tile, their mask, and the starts of the boxes."""
        origin = self.tiles.origin(index)
        starts = [halo.start(origin) for halo in self.halos]
        boxes = [
            halo.read(pool, start) for halo, pool, start in zip(self.halos, self.pools, starts, strict=True)
        ]
        near = jnp.concatenate(
            [halo.visible(origin, start) for halo, start in zip(self.halos, starts, strict=True)], axis=1
        )
        (batch, extra), (queries, seen) = self.extra_mask.shape, near.shape
        mask = jnp.concatenate(
            [
                jnp.broadcast_to(near, (batch, queries, seen)),
                jnp.broadcast_to(self.extra_mask[:, None], (batch, queries, extra)),
            ],
            axis=2,
        )
        return jnp.concatenate([*boxes, self.extra_pool], axis=3), mask[:, None], starts

    def add(self, sums: list[Array], grad: Array, starts: list[tuple[Array, ...]]) -> list[Array]:
        """Adds a tile's gradients of keys and values to `sums`, which have the shapes of the pools."""
        parts, first = [], 0
        for halo, pool, start in zip(self.halos, sums[:-1], starts, strict=True):
            parts.append(halo.add(pool, grad[:, :, :, first : first + halo.tokens], start))
            first += halo.tokens
        return [*parts, sums[-1] + grad[:, :, :, first:]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend(
    query: Float[Array, "batch tokens heads dim"],
    keys: tuple[Float[Array, "batch _ heads dim"], ...],
    values: tuple[Float[Array, "batch _ heads dim"], ...],
    extra: Extra | None,
    geometry: Geometry,
) -> Float[Array, "batch tokens heads dim"]:
    """Attention over the keys of all windows and the extra keys, with a float32 softmax."""
    return _forward(query, keys, values, extra, geometry)[0]


def _forward(query, keys, values, extra, geometry):
    problem = _Problem(keys, values, extra, geometry)
    scale = query.shape[-1] ** -0.5

    def one_tile(_, inputs):
        index, q = inputs
        (k, v), mask, _ = problem.read(index)
        scores = jnp.where(mask, _dot("bhqd,bhkd->bhqk", q, k) * scale, NEGATIVE)
        largest = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = weights.sum(axis=-1, keepdims=True)
        out = _dot("bhqk,bhkd->bhqd", weights.astype(v.dtype), v) / total
        return None, (out.astype(q.dtype), (largest + jnp.log(total))[..., 0])

    tiles = problem.tiles
    indices = jnp.arange(math.prod(tiles.counts))
    _, (out, log_sum) = jax.lax.scan(one_tile, None, (indices, tiles.split(query)))
    out = tiles.join(out)
    return out, (query, keys, values, extra, out, log_sum)


def _backward(geometry, residuals, d_out):
    query, keys, values, extra, out, log_sum = residuals
    problem = _Problem(keys, values, extra, geometry)
    dtype, scale = query.dtype, query.shape[-1] ** -0.5
    delta = (d_out.astype(jnp.float32) * out).sum(axis=-1, keepdims=True)

    def one_tile(sums, inputs):
        # With transposed scores, only one of the three products for gradients reads them across rows. Such a
        # product takes up to twice the time on CPU.
        index, q, do, log_sum, delta = inputs
        (k, v), mask, starts = problem.read(index)
        scores = _dot("bhkd,bhqd->bhkq", k, q) * scale
        mask = mask.swapaxes(2, 3)
        weights = jnp.where(mask, jnp.exp(scores - log_sum[:, :, None]), 0.0)
        d_weights = _dot("bhkd,bhqd->bhkq", v, do) - delta.swapaxes(2, 3)
        d_scores = (weights * d_weights * scale).astype(dtype)
        dk = _dot("bhkq,bhqd->bhkd", d_scores, q)
        dv = _dot("bhkq,bhqd->bhkd", weights.astype(dtype), do)
        dq = _dot("bhkq,bhkd->bhqd", d_scores, k)
        return problem.add(sums, jnp.stack([dk, dv]), starts), dq.astype(dtype)

    tiles = problem.tiles
    zeros = [jnp.zeros(pool.shape, jnp.float32) for pool in (*problem.pools, problem.extra_pool)]
    xs = (
        jnp.arange(math.prod(tiles.counts)),
        tiles.split(query),
        tiles.split(d_out),
        log_sum,
        tiles.split(delta),
    )
    sums, dq = jax.lax.scan(one_tile, zeros, xs)
    *grads, extra_grads = [_unpool(total.astype(dtype)) for total in sums]
    d_keys, d_values = zip(*grads, strict=True)
    return tiles.join(dq), d_keys, d_values, None if extra is None else (*extra_grads, None)


attend.defvjp(_forward, _backward)
