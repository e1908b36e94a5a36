"""How a grid is cut into tiles, and which box of the other side each tile needs.

Every grid is seen as three axes, the first ones of length 1 where it has fewer. A tile of queries needs the
keys that any of its windows holds: a box, the same size for all tiles, that starts where the tile does less
the halo. The transposed question, which queries see a tile of keys, has the same form.
"""

import dataclasses
import functools
import itertools
import math

from pallas_kernels.local_attention.geometry import Window

Axes = tuple[int, int, int]

_STEP = 2**15  # what a step of the launch grid costs by itself, in score entries
_LANES = 128


def three_axes(sizes: tuple[int, ...], fill: int = 1) -> Axes:
    """`sizes` with `fill` in front, three in all."""
    return (*[fill] * (3 - len(sizes)), *sizes)


def round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


@dataclasses.dataclass(frozen=True)
class Span:
    """Along one axis, the places that tile i needs: `size` of them from `start(i)`.

    They count from `left` places before the grid, so that none is negative; the padded axis has `total`.
    """

    left: int
    size: int
    total: int
    step: int
    divisor: int
    align: int

    def start(self, i):
        return i * self.step // self.divisor // self.align * self.align


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Tiles of `tile` places, `counts` of them an axis, and for each window the spans of its three axes."""

    tile: Axes
    counts: Axes
    boxes: tuple[tuple[Span, Span, Span], ...]

    @property
    def padded(self) -> Axes:
        """The tiled grid, which a tile may overhang."""
        return tuple(t * n for t, n in zip(self.tile, self.counts))

    @property
    def scores(self) -> int:
        """Score entries of one tile with its boxes."""
        return math.prod(self.tile) * sum(math.prod(s.size for s in box) for box in self.boxes)


def _span(tile: int, count: int, places: int, radius: int, factor: int, transposed: bool, align: int) -> Span:
    if transposed:
        left, step, divisor, need = factor * radius, factor * tile, 1, factor * (tile + 2 * radius)
    else:
        centres = tile // factor if tile % factor == 0 else (tile + factor - 2) // factor + 1
        left, step, divisor, need = radius, tile, factor, centres + 2 * radius
    slack = max(i * step // divisor % align for i in range(count))
    size = round_up(need + slack, align)
    whole = round_up(places, align)
    if whole <= size:
        return Span(0, whole, whole, 0, 1, 1)
    last = (count - 1) * step // divisor // align * align
    return Span(left, size, max(last + size, left + places), step, divisor, align)


def _sizes(places: int, align: int) -> list[int]:
    """Tile lengths worth trying: those that cut the axis into equal parts."""
    return sorted({round_up(-(-places // parts), align) for parts in range(1, places + 1)})


@functools.lru_cache(maxsize=256)
def find_tiling(
    grid: tuple[int, ...],
    windows: tuple[Window, ...],
    *,
    transposed: bool = False,
    align: int,
    max_scores: int,
    extra: int = 0,
) -> Tiling:
    """The tiling with the least work among those whose step holds at most `max_scores` scores.

    Args:
      grid: of the tiles' own side: the queries', or with `transposed` the keys' (then one window).
      windows: onto the other side; with `transposed`, onto this one from a grid `factor` times as fine.
      align: lengths along the last axis, and places where boxes start there, are multiples of it.
      extra: keys that every query sees.
    """
    own = three_axes(grid)
    best: tuple[tuple[float, int], Tiling] | None = None
    for tile in itertools.product(_sizes(own[0], 1), _sizes(own[1], 1), _sizes(own[2], align)):
        counts = tuple(-(-n // t) for n, t in zip(own, tile))
        boxes = tuple(_box(tile, counts, window, transposed, align) for window in windows)
        tiling = Tiling(tile, counts, boxes)
        columns = sum(round_up(math.prod(s.size for s in box), _LANES) for box in boxes) + extra
        scores = math.prod(tile) * columns
        # None within the limit: the least scores. Otherwise the least work.
        over = max(scores - max_scores, 0)
        rank = (over, math.prod(counts) * (scores + _STEP))
        if best is None or rank < best[0]:
            best = rank, tiling
    assert best is not None
    return best[1]


def _box(
    tile: Axes, counts: Axes, window: Window, transposed: bool, align: int
) -> tuple[Span, Span, Span]:
    keys, radii, factors = (
        three_axes(window.grid), three_axes(window.radii, 0), three_axes(window.factor)
    )
    places = tuple(k * f for k, f in zip(keys, factors)) if transposed else keys
    return tuple(
        _span(*sizes, transposed, align if axis == 2 else 1)
        for axis, sizes in enumerate(zip(tile, counts, places, radii, factors))
    )

