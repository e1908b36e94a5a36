import math

import jax
import numpy as np
import pytest

from muse_jax.sampling import halton_order
from muse_jax.sampling.halton import halton_ranks, masked_halton_ranks


def inverse(i, base):
    """The radical inverse as an exact fraction (numerator, denominator)."""
    numerator, denominator = 0, 1
    while i:
        i, digit = divmod(i, base)
        numerator, denominator = numerator * base + digit, denominator * base
    return numerator, denominator


def halton_by_hand(grid):
    order, i = [], 1
    while len(order) < math.prod(grid):
        cell = 0
        for side, base in zip(grid, (2, 3, 5), strict=False):
            numerator, denominator = inverse(i, base)
            cell = cell * side + numerator * side // denominator
        if cell not in order:
            order.append(cell)
        i += 1
    return order


GRIDS = [(4, 4), (8, 8), (16, 16), (8, 16), (9, 3), (1, 5), (5, 1), (7,), (4, 3, 5), (1, 4, 2), (8, 8, 8)]


@pytest.mark.parametrize("grid", GRIDS)
def test_the_order_equals_a_loop_in_integer_arithmetic(grid):
    order = halton_order(grid)
    assert sorted(order) == list(range(math.prod(grid)))
    assert order.tolist() == halton_by_hand(grid)
    np.testing.assert_array_equal(halton_ranks(grid)[order], np.arange(len(order)))


def test_the_first_points_are_those_worked_out_by_hand():
    # (1/2, 1/3), (1/4, 2/3), (3/4, 1/9), (1/8, 4/9) on a 9 x 9 grid, worked out on paper
    assert halton_order((9, 9))[:4].tolist() == [4 * 9 + 3, 2 * 9 + 6, 6 * 9 + 1, 1 * 9 + 4]


def test_the_order_is_spread_out():
    """A quarter of the positions puts a near equal number in each quadrant, as a random subset would not."""
    order = halton_order((16, 16))[:64]
    quadrant = (order // 16 // 8) * 2 + order % 16 // 8
    assert np.abs(np.bincount(quadrant, minlength=4) - 16).max() <= 2


def test_ranks_count_masked_positions_only_and_roll_per_sample():
    masked = np.random.default_rng(0).random((6, 16)) < 0.5
    order = halton_order((4, 4))
    plain = np.array(masked_halton_ranks(masked, (4, 4)))
    key = jax.random.key(1)
    rolled = np.array(masked_halton_ranks(masked, (4, 4), key))
    offsets = np.array(jax.random.randint(key, (6, 1), 0, 16))[:, 0]
    assert len(set(offsets)) > 1
    for b in range(6):
        for got, sequence in ((plain, order), (rolled, np.roll(order, offsets[b]))):
            queue = [p for p in sequence if masked[b, p]]
            assert [got[b, p] for p in queue] == list(range(len(queue)))
            assert all(got[b, p] >= len(queue) for p in range(16) if not masked[b, p])


@pytest.mark.parametrize("grid", [(0, 4), (), (2, 2, 2, 2)])
def test_a_grid_that_is_empty_or_has_more_than_three_axes_is_refused(grid):
    with pytest.raises(ValueError, match="needs one to three axes of at least one position each"):
        halton_order(grid)
