"""Tiling of the XLA implementation: tiles of queries, and the box of keys that each tile sees."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from pallas_kernels.local_attention.geometry import Geometry, Window

# Cost of reading a tile's keys and adding their gradients, in queries; fitted on a CPU.
_MOVE = 64


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Equal tiles of `sizes` positions that cover `grid`; the last ones may overhang it."""

    grid: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of tiles along each axis."""
        return tuple(-(-positions // size) for positions, size in zip(self.grid, self.sizes, strict=True))

    def _rearrange(self, x: Array, split: bool) -> Array:
        names = "xyz"[: len(self.grid)]
        whole = "b " + " ".join(f"({a} {a}t)" for a in names) + " h d"
        tiled = f"({' '.join(names)}) b h ({' '.join(a + 't' for a in names)}) d"
        sizes = dict(zip(names, self.counts, strict=True)) | {
            a + "t": size for a, size in zip(names, self.sizes, strict=True)
        }
        return rearrange(x, f"{whole} -> {tiled}" if split else f"{tiled} -> {whole}", **sizes)

    def split(self, x: Float[Array, "batch tokens heads dim"]) -> Float[Array, "tiles batch heads tile dim"]:
        """Splits tokens into tiles, with zeros beyond the grid."""
        beyond = [
            (0, size * count - positions)
            for positions, size, count in zip(self.grid, self.sizes, self.counts, strict=True)
        ]
        x = x.reshape(x.shape[0], *self.grid, *x.shape[2:])
        return self._rearrange(jnp.pad(x, [(0, 0), *beyond, (0, 0), (0, 0)]), split=True)

    def join(self, x: Float[Array, "tiles batch heads tile dim"]) -> Float[Array, "batch tokens heads dim"]:
        """Inverse of `split`."""
        x = self._rearrange(x, split=False)[:, *map(slice, self.grid)]
        return x.reshape(x.shape[0], math.prod(self.grid), *x.shape[-2:])

    def origin(self, index: Array) -> tuple[Array, ...]:
        """First position of tile `index`."""
        return tuple(
            i * size for i, size in zip(jnp.unravel_index(index, self.counts), self.sizes, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class Halo:
    """Box of a window's keys that contains all keys that the queries of one tile see.

    At the edges the box is shifted into the grid instead of overhanging it. Nothing is padded, and a window
    as wide as the grid reads each key once.
    """

    window: Window
    tiles: Tiles

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the box."""
        window = self.window
        reach = (  # the maximum number of centres of a tile along an axis, plus the window around them
            (size + factor - 2) // factor + extent
            for size, factor, extent in zip(self.tiles.sizes, window.factor, window.extents, strict=True)
        )
        return tuple(map(min, window.grid, reach))

    @property
    def tokens(self) -> int:
        """Number of keys in the box."""
        return math.prod(self.sizes)

    def start(self, origin: Sequence[Array]) -> tuple[Array, ...]:
        """First position of the box for the tile that starts at `origin`."""
        window = self.window
        first = (
            i // factor - radius
            for i, factor, radius in zip(origin, window.factor, window.radii, strict=True)
        )
        return tuple(
            jnp.clip(i, 0, keys - size) for i, keys, size in zip(first, window.grid, self.sizes, strict=True)
        )

    def read(self, x: Float[Array, "..."], start: Sequence[Array]) -> Float[Array, "..."]:
        """Reads the box from `x`, `(leading, *window.grid, dim)`, as `(leading, box, dim)`."""
        leading = x.shape[: -len(self.sizes) - 1]
        at: Sequence[Any] = (*(0 for _ in leading), *start, 0)
        box = jax.lax.dynamic_slice(x, at, (*leading, *self.sizes, x.shape[-1]))
        return box.reshape(*leading, self.tokens, x.shape[-1])

    def add(
        self, x: Float[Array, "..."], box: Float[Array, "..."], start: Sequence[Array]
    ) -> Float[Array, "..."]:
        """Adds `box` to `x` at the positions that `read` reads."""
        leading = x.shape[: -len(self.sizes) - 1]
        at: Sequence[Any] = (*(0 for _ in leading), *start, 0)
        box = (self.read(x, start) + box).reshape(*leading, *self.sizes, x.shape[-1])
        return jax.lax.dynamic_update_slice(x, box, at)

    def visible(self, origin: Sequence[Array], start: Sequence[Array]) -> Bool[Array, "tile box"]:
        """Mask of the keys in the box at `start` that each query of the tile at `origin` sees."""
        axes = len(self.sizes)
        near, level = jnp.array(True), jnp.array(True)
        later = jnp.array(False)
        for axis in range(axes):
            query = origin[axis] + jnp.arange(self.tiles.sizes[axis])
            key = start[axis] + jnp.arange(self.sizes[axis])
            ahead = key - (query // self.window.factor[axis])[:, None]
            ahead = jnp.expand_dims(ahead, [i for i in range(2 * axes) if i not in (axis, axes + axis)])
            near &= jnp.abs(ahead) <= self.window.radii[axis]
            later |= level & (ahead > 0)  # raster order: the first axis that differs decides
            level &= ahead == 0
        if self.window.causal:
            near &= ~later
        return near.reshape(math.prod(self.tiles.sizes), self.tokens)


@functools.lru_cache(maxsize=256)
def choose_tiles(geometry: Geometry, extra: int, max_tokens: int) -> Tiles:
    """Chooses the tiles of at most `max_tokens` positions with the least work; `extra` keys are global.

    A small tile wastes few products on pairs that do not see each other; a large tile moves each key less
    often. Overhang of the grid is wasted in both cases.
    """

    def work(tiles: Tiles) -> int:
        seen = extra + sum(Halo(window, tiles).tokens for window in geometry.windows)
        return math.prod(tiles.counts) * seen * (math.prod(tiles.sizes) + _MOVE)

    lengths = (
        sorted({-(-positions // count) for count in range(1, positions + 1)}) for positions in geometry.grid
    )
    options = (Tiles(geometry.grid, sizes) for sizes in itertools.product(*lengths))
    return min((tiles for tiles in options if math.prod(tiles.sizes) <= max_tokens), key=work)
