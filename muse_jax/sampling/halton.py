"""The Halton order: tokens revealed along a low-discrepancy sequence (Besnier et al., ICLR 2025)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from muse_jax.sampling.schedules import ranks


def radical_inverse(indices: np.ndarray, base: int) -> np.ndarray:
    """Van der Corput values in [0, 1): the digits of each index in `base`, mirrored at the point."""
    remaining = np.asarray(indices)
    value = np.zeros(remaining.shape)
    scale = 1.0
    while np.any(remaining):
        scale /= base
        remaining, digit = np.divmod(remaining, base)
        value += digit * scale
    return value


def _cells(start: int, stop: int, grid: tuple[int, int]) -> np.ndarray:
    """Flat positions visited by the points start..stop-1 of the 2D Halton sequence (bases 2 and 3)."""
    height, width = grid
    indices = np.arange(start, stop)
    # A mirrored value that equals a cell's edge but for rounding belongs to the cell that begins there.
    row = np.floor(radical_inverse(indices, 2) * height + 1e-9)
    column = np.floor(radical_inverse(indices, 3) * width + 1e-9)
    return (row * width + column).astype(np.int32)


@functools.lru_cache(maxsize=32)
def _halton_order(grid: tuple[int, int]) -> np.ndarray:
    # Of 2^a 3^b points in a row, each box of a lattice of 2^a by 3^b has one. Boxes of at most half a cell's
    # sides lie in every cell, so these points visit them all.
    boxes = [base ** math.ceil(math.log(2 * side, base)) for base, side in zip((2, 3), grid)]
    # The sequence begins at its index 1; index 0 is the corner (0, 0).
    visited, first = np.unique(_cells(1, math.prod(boxes) + 1, grid), return_index=True)
    order = visited[np.argsort(first)]
    order.flags.writeable = False
    return order


def halton_order(grid: tuple[int, int]) -> np.ndarray:
    """Flat positions (row-major) of a (height, width) grid, by first visit of the Halton sequence.

    Point i = 1, 2, ... is (radical inverse of i in base 2, in base 3); its cell is the floor of the point
    times (height, width). Returns a read-only int32 permutation of height * width positions.
    """
    height, width = (int(side) for side in grid)
    if height < 1 or width < 1:
        raise ValueError(f"The grid must have at least one row and one column, given {tuple(grid)}.")
    return _halton_order((height, width))


def halton_ranks(grid: tuple[int, int]) -> np.ndarray:
    """The inverse of `halton_order`: entry p is when position p is revealed, 0 for the first."""
    order = halton_order(grid)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank


def masked_halton_ranks(
    masked: Array, grid: tuple[int, int], roll_key: Array | None = None
) -> Int[Array, "batch n"]:
    """When each position is revealed, counted among the positions of its sample that are `masked` (batch, n).

    Positions that are not masked come after all that are. With `roll_key`, the order of every sample is
    rolled by its own random offset before that.
    """
    batch, n = masked.shape
    rank = jnp.broadcast_to(halton_ranks(grid), (batch, n))
    if roll_key is not None:
        rank = (rank + jax.random.randint(roll_key, (batch, 1), 0, n)) % n
    return ranks(jnp.where(masked, rank, n))
