"""Windows of keys on grids of one to three axes."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Window:
    """Window of keys: a query at position i sees the keys at most `extents // 2` from `i // factor`.

    Fields, with one entry per axis:
      grid: sizes of the key grid.
      extents: odd sizes of the window, at most 2 * grid - 1, which reaches all positions from everywhere.
      factor: size of the query grid divided by that of the key grid.
      causal: leave out keys after the query in raster order; requires factor 1.
    """

    grid: tuple[int, ...]
    extents: tuple[int, ...]
    factor: tuple[int, ...]
    causal: bool = False

    @property
    def radii(self) -> tuple[int, ...]:
        """Reach of the window from its centre along each axis."""
        return tuple(extent // 2 for extent in self.extents)

    @property
    def tokens(self) -> int:
        """Number of keys in the grid."""
        return math.prod(self.grid)

    @property
    def size(self) -> int:
        """Number of keys in a window inside the grid."""
        return math.prod(self.extents)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Grid of the queries and the windows that share one softmax; hashable, for static arguments."""

    grid: tuple[int, ...]
    windows: tuple[Window, ...]

    @property
    def tokens(self) -> int:
        """Number of queries in the grid."""
        return math.prod(self.grid)


def show(sizes: tuple[int, ...]) -> str:
    """A grid or window in an error message, such as 60x60."""
    return "x".join(map(str, sizes))


def make_window(
    name: str,
    grid: tuple[int, ...],
    window: tuple[int, ...],
    key_grid: tuple[int, ...] | None = None,
    causal: bool = False,
) -> Window:
    """Makes the window of queries over `grid` on keys over `key_grid`, the same grid by default.

    Larger extents than are needed to reach the whole grid are reduced, which changes no result.

    Args:
      name: of the window, for error messages.
      grid, window, key_grid, causal: as for `local_attention`.

    Raises:
      ValueError: if an extent is even or below 1, the number of axes differs or is not 1 to 3, the key grid
        does not divide the grid, or a causal window has a coarser key grid.
    """
    grid, window = tuple(grid), tuple(window)
    key_grid = grid if key_grid is None else tuple(key_grid)
    if not 1 <= len(grid) <= 3 or min(grid) < 1:
        raise ValueError(f"grid is {grid}, but it has one to three axes of at least one position each.")
    if not len(grid) == len(window) == len(key_grid):
        raise ValueError(
            f"{name} {show(window)} on a key grid {show(key_grid)} does not fit the grid {show(grid)}: "
            "give one size an axis in each."
        )
    if any(extent < 1 or extent % 2 == 0 for extent in window):
        raise ValueError(
            f"{name} is {show(window)}, but it is centred on a position: use odd sizes of at least one."
        )
    if any(keys < 1 or positions % keys for positions, keys in zip(grid, key_grid, strict=True)):
        raise ValueError(
            f"The key grid {show(key_grid)} of {name} does not divide the grid {show(grid)}: "
            "each axis of the grid is a whole multiple of the keys'."
        )
    if causal and key_grid != grid:
        raise ValueError(
            f"causal orders queries and keys of one grid, but the grid is {show(grid)} and the key grid "
            f"{show(key_grid)}: drop causal or the key grid."
        )
    return Window(
        grid=key_grid,
        extents=tuple(min(extent, 2 * keys - 1) for extent, keys in zip(window, key_grid, strict=True)),
        factor=tuple(positions // keys for positions, keys in zip(grid, key_grid, strict=True)),
        causal=causal,
    )


def align(grid: tuple[int, ...], key_grid: tuple[int, ...]) -> tuple[tuple[int, ...], np.ndarray]:
    """Lays queries over a grid that `key_grid` divides, so that each keeps its centre `i * keys // queries`.

    Returns:
      sizes of that grid, and for each query, in raster order, its place there.
    """
    sizes, places = [], []
    for positions, keys in zip(grid, key_grid, strict=True):
        factor = -(-positions // keys)
        centres = np.arange(positions) * keys // positions
        first = np.searchsorted(centres, centres)  # the first query with the same centre
        sizes.append(keys * factor)
        places.append(centres * factor + np.arange(positions) - first)
    return tuple(sizes), np.ravel_multi_index(np.meshgrid(*places, indexing="ij"), sizes).ravel()
