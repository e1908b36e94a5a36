"""Halton order: tokens revealed along a low-discrepancy sequence (Besnier et al., ICLR 2025)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from muse_jax.sampling.schedules import ranks

BASES = (2, 3, 5)
"""Bases of the radical inverse along each axis of a grid."""


def radical_inverse(indices: np.ndarray, base: int) -> np.ndarray:
    """Van der Corput values in [0, 1): the digits of each index in `base`, mirrored at the radix point."""
    remaining = np.asarray(indices)
    value = np.zeros(remaining.shape)
    scale = 1.0
    while np.any(remaining):
        scale /= base
        remaining, digit = np.divmod(remaining, base)
        value += digit * scale
    return value


def _cells(start: int, stop: int, grid: tuple[int, ...]) -> np.ndarray:
    """Flat positions visited by the points start..stop-1 of the Halton sequence."""
    indices = np.arange(start, stop)
    # A value at a cell's lower edge belongs to that cell, whatever rounding did to it.
    places = [
        np.floor(radical_inverse(indices, base) * side + 1e-9)
        for base, side in zip(BASES, grid, strict=False)
    ]
    return np.ravel_multi_index(tuple(place.astype(np.int64) for place in places), grid).astype(np.int32)


@functools.lru_cache(maxsize=32)
def _halton_order(grid: tuple[int, ...]) -> np.ndarray:
    # Any 2^a 3^b 5^c consecutive points put one into each box of the lattice of 2^a x 3^b x 5^c boxes. Boxes
    # of at most half a cell's sides lie inside every cell, so that these points visit all cells.
    boxes = [base ** math.ceil(math.log(2 * side, base)) for base, side in zip(BASES, grid, strict=False)]
    # The sequence begins at index 1; index 0 is the corner at the origin.
    visited, first = np.unique(_cells(1, math.prod(boxes) + 1, grid), return_index=True)
    order = visited[np.argsort(first)]
    order.flags.writeable = False
    return order


def halton_order(grid: tuple[int, ...]) -> np.ndarray:
    """Positions of a grid in the order in which the Halton sequence first visits them.

    Point i = 1, 2, ... has as coordinates the radical inverses of i in bases 2, 3 and 5, one per axis. Its
    cell is the floor of the point times the sizes of the grid.

    Args:
      grid: sizes of one to three axes, such as (height, width).

    Returns:
      a read-only int32 permutation of the flat positions in raster order.

    Raises:
      ValueError: if the grid is empty or has more than three axes.
    """
    grid = tuple(int(side) for side in grid)
    if not 1 <= len(grid) <= len(BASES) or min(grid) < 1:
        raise ValueError(
            f"The grid is {grid}, but the Halton order needs one to three axes of at least one position each."
        )
    return _halton_order(grid)


def halton_ranks(grid: tuple[int, ...]) -> np.ndarray:
    """Inverse of `halton_order`: entry p is the rank at which position p is revealed, 0 for the first."""
    order = halton_order(grid)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank


def masked_halton_ranks(
    masked: Array, grid: tuple[int, ...], roll_key: Array | None = None
) -> Int[Array, "batch n"]:
    """Halton ranks of each sample's masked positions, counted among these only.

    Args:
      masked: bool (batch, n), True where a position is masked. All others rank after them.
      grid: sizes whose product is n.
      roll_key: rolls the order of each sample by a random offset of its own; None keeps it.
    """
    batch, n = masked.shape
    rank = jnp.broadcast_to(halton_ranks(grid), (batch, n))
    if roll_key is not None:
        rank = (rank + jax.random.randint(roll_key, (batch, 1), 0, n)) % n
    return ranks(jnp.where(masked, rank, n))
