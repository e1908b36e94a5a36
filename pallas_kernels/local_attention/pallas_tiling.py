"""Tiling of the Pallas implementations: tiles of a grid, and the box of the other side that each tile needs.

Every grid is treated as three axes, with leading axes of size 1 where it has fewer. A tile of queries needs
the keys in any of its windows: a box of one size for all tiles, which starts at the tile's start minus the
halo. The transposed problem, the queries that see a tile of keys, has the same form.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from pallas_kernels.local_attention.geometry import Window

Axes = tuple[int, ...]  # three sizes
Positions = Sequence[Int[Array, "..."]]  # three coordinates of positions
Scalar = Any  # an integer, traced or not

_STEP = 2**15  # fixed cost of a step of the launch grid, in scores
_LANES = 128
_FAR = -(2**20)  # a coordinate outside every grid and window


def three_axes(sizes: tuple[int, ...], fill: int = 1) -> Axes:
    """Extends `sizes` to three axes, with `fill` in front."""
    return (*[fill] * (3 - len(sizes)), *sizes)


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple that is at least `size`."""
    return -(-size // multiple) * multiple


@dataclasses.dataclass(frozen=True)
class Span:
    """Positions along one axis that tile i needs: `size` of them from `start(i)`.

    Positions are counted from `left` before the grid, so that none is negative. The padded axis has `total`.
    """

    left: int
    size: int
    total: int
    step: int
    divisor: int
    align: int

    def start(self, i: Scalar) -> Scalar:
        """First position for tile i."""
        return i * self.step // self.divisor // self.align * self.align


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Tiles of `tile` positions, their number along each axis, and the spans of each window's box."""

    tile: Axes
    counts: Axes
    boxes: tuple[tuple[Span, ...], ...]

    @property
    def padded(self) -> Axes:
        """Sizes of the tiled grid, overhang included."""
        return tuple(t * n for t, n in zip(self.tile, self.counts, strict=True))


def _span(
    tile: int, count: int, positions: int, radius: int, factor: int, transposed: bool, align: int
) -> Span:
    if transposed:
        left, step, divisor, need = factor * radius, factor * tile, 1, factor * (tile + 2 * radius)
    else:
        centres = tile // factor if tile % factor == 0 else (tile + factor - 2) // factor + 1
        left, step, divisor, need = radius, tile, factor, centres + 2 * radius
    slack = max(i * step // divisor % align for i in range(count))
    size = round_up(need + slack, align)
    whole = round_up(positions, align)
    if whole <= size:
        return Span(0, whole, whole, 0, 1, 1)
    last = (count - 1) * step // divisor // align * align
    return Span(left, size, max(last + size, left + positions), step, divisor, align)


def equal_tiles(grid: tuple[int, ...], align: int) -> tuple[Axes, ...]:
    """Tiles that cut each axis into equal parts; the last size is a multiple of `align`."""

    def sizes(positions: int, multiple: int) -> list[int]:
        return sorted({round_up(-(-positions // parts), multiple) for parts in range(1, positions + 1)})

    *others, last = three_axes(grid)
    return tuple(itertools.product(*(sizes(positions, 1) for positions in others), sizes(last, align)))


def power_tiles(grid: tuple[int, ...], positions: int) -> tuple[Axes, ...]:
    """Tiles of `positions` positions, whose sizes are powers of two; so is `positions`."""
    first, second, _ = (1 << (size - 1).bit_length() for size in three_axes(grid))
    powers = [1 << i for i in range(positions.bit_length())]
    return tuple(
        (a, b, positions // (a * b))
        for a in powers
        for b in powers
        if a <= first and b <= second and a * b <= positions
    )


@functools.lru_cache(maxsize=256)
def find_tiling(
    grid: tuple[int, ...],
    windows: tuple[Window, ...],
    tiles: tuple[Axes, ...],
    *,
    transposed: bool = False,
    align: int = 1,
    max_scores: int,
    extra: int = 0,
) -> Tiling:
    """Finds the tiling with the least work among those whose step holds at most `max_scores` scores.

    Args:
      grid: grid of the tiles: that of the queries or, with `transposed`, that of the keys of one window.
      windows: windows on the other side; with `transposed`, on this side, from a grid `factor` times as fine.
      tiles: candidates.
      transposed: tile the keys, and make boxes of the queries that see them.
      align: divides the sizes and starts of boxes along the last axis.
      max_scores: limit for a step; if no candidate meets it, the one with the fewest scores is taken.
      extra: number of global keys.
    """
    own = three_axes(grid)
    best: tuple[tuple[float, int], Tiling] | None = None
    for tile in tiles:
        counts = tuple(-(-n // t) for n, t in zip(own, tile, strict=True))
        boxes = tuple(_box(tile, counts, window, transposed, align) for window in windows)
        columns = sum(round_up(math.prod(s.size for s in box), _LANES) for box in boxes) + extra
        scores = math.prod(tile) * columns
        # The least work within the limit, or else the fewest scores.
        rank = max(scores - max_scores, 0), math.prod(counts) * (scores + _STEP)
        if best is None or rank < best[0]:
            best = rank, Tiling(tile, counts, boxes)
    assert best is not None
    return best[1]


def _box(tile: Axes, counts: Axes, window: Window, transposed: bool, align: int) -> tuple[Span, ...]:
    keys, radii = three_axes(window.grid), three_axes(window.radii, 0)
    factors = three_axes(window.factor)
    positions = _finer(keys, factors) if transposed else keys
    return tuple(
        _span(*sizes, transposed, align if axis == 2 else 1)
        for axis, sizes in enumerate(zip(tile, counts, positions, radii, factors, strict=True))
    )


def _finer(grid: Axes, factors: Axes) -> Axes:
    return tuple(size * factor for size, factor in zip(grid, factors, strict=True))


def box_starts(box: Sequence[Span], step: Sequence[Scalar]) -> list[Scalar]:
    """Start of the box of the tile `step`, in coordinates of the grid."""
    return [span.start(i) - span.left for span, i in zip(box, step, strict=True)]


def box_sizes(box: Sequence[Span]) -> Axes:
    """Sizes of a box."""
    return tuple(span.size for span in box)


def positions_in(flat: Int[Array, "..."], starts: Sequence[Scalar], sizes: Axes) -> list[Array]:
    """Positions with the raster indices `flat` in a box; indices past its end give positions far outside."""
    rest = lax.rem(flat, sizes[1] * sizes[2])
    offsets = lax.div(flat, sizes[1] * sizes[2]), lax.div(rest, sizes[2]), lax.rem(rest, sizes[2])
    first, second, third = (start + offset for start, offset in zip(starts, offsets, strict=True))
    return [jnp.where(flat < math.prod(sizes), first, _FAR), second, third]


def raster(positions: Positions, grid: Axes) -> Int[Array, "..."]:
    """Raster indices of positions over `grid`."""
    return (positions[0] * grid[1] + positions[1]) * grid[2] + positions[2]


def inside(positions: Positions, grid: Axes) -> Bool[Array, "..."]:
    """True for positions inside `grid`."""
    return functools.reduce(
        jnp.logical_and, [(p >= 0) & (p < size) for p, size in zip(positions, grid, strict=True)]
    )


def visible(window: Window, queries: Positions, keys: Positions, boxed: str) -> Bool[Array, "..."]:
    """Mask of the keys that each query sees; queries and keys broadcast against each other.

    The side named by `boxed`, "keys" or "queries", may overhang its grid: positions outside are masked. The
    caller must drop positions of the other side that overhang.
    """
    grid, radii, factors = three_axes(window.grid), three_axes(window.radii, 0), three_axes(window.factor)
    centres = [
        lax.div(position, factor) if factor > 1 else position
        for position, factor in zip(queries, factors, strict=True)
    ]
    columns = {"queries": centres[2], "keys": keys[2]}
    within = inside(keys, grid) if boxed == "keys" else inside(queries, _finer(grid, factors))
    columns[boxed] = jnp.where(within, columns[boxed], _FAR)  # saves a comparison per pair
    seen = jnp.abs(columns["queries"] - columns["keys"]) <= radii[2]
    for axis in (0, 1):
        if radii[axis] < grid[axis] - 1:
            seen &= jnp.abs(centres[axis] - keys[axis]) <= radii[axis]
    if window.causal:
        seen &= raster(keys, grid) <= raster(queries, grid)
    return seen
