"""Which keys a query sees: windows on grids of one to three axes."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Window:
    """Keys over `grid`, of which a query at place i sees those at most `extents // 2` from `i // factor`.

    One entry an axis; extents are odd and at most twice the grid less one, which reaches every place from
    every other. `causal` leaves only keys that are not later than the query in raster order (factor 1).
    """

    grid: tuple[int, ...]
    extents: tuple[int, ...]
    factor: tuple[int, ...]
    causal: bool = False

    @property
    def radii(self) -> tuple[int, ...]:
        """How far the window reaches from its centre, one an axis."""
        return tuple(extent // 2 for extent in self.extents)

    @property
    def tokens(self) -> int:
        """Keys in the grid."""
        return math.prod(self.grid)

    @property
    def size(self) -> int:
        """Keys in a window that lies wholly inside the grid."""
        return math.prod(self.extents)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The grid of the queries and the windows that share one softmax; hashable, so that it can be static."""

    grid: tuple[int, ...]
    windows: tuple[Window, ...]

    @property
    def tokens(self) -> int:
        """Queries in the grid."""
        return math.prod(self.grid)


def show(sizes: tuple[int, ...]) -> str:
    """A grid or a window as 60x60."""
    return "x".join(map(str, sizes))


def make_window(
    name: str,
    grid: tuple[int, ...],
    window: tuple[int, ...],
    key_grid: tuple[int, ...] | None = None,
    causal: bool = False,
) -> Window:
    """The window that queries over `grid` have on keys over `key_grid`, by default the same grid.

    Extents that reach beyond the grid from every place are cut to those that just reach its ends, which
    changes nothing. `name` is what the errors call the window.

    Raises:
      ValueError: if an extent is even or below 1, the number of axes differs or is not 1 to 3, the key grid
        does not divide the grid, or a causal window lies on a coarser grid.
    """
    grid, window = tuple(grid), tuple(window)
    key_grid = grid if key_grid is None else tuple(key_grid)
    if not 1 <= len(grid) <= 3 or min(grid) < 1:
        raise ValueError(f"grid is {grid}, but it has one to three axes of at least one place each.")
    if not len(grid) == len(window) == len(key_grid):
        raise ValueError(
            f"{name} {show(window)} on a key grid {show(key_grid)} does not fit the grid {show(grid)}: "
            "give one size an axis in each."
        )
    if any(extent < 1 or extent % 2 == 0 for extent in window):
        raise ValueError(
            f"{name} is {show(window)}, but it is centred on a place: use odd sizes of at least one."
        )
    if any(keys < 1 or places % keys for places, keys in zip(grid, key_grid)):
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
        extents=tuple(min(extent, 2 * keys - 1) for extent, keys in zip(window, key_grid)),
        factor=tuple(places // keys for places, keys in zip(grid, key_grid)),
        causal=causal,
    )
