"""Layouts of self-attention on a grid: groups of tokens that attend to each other (MaxViT, Tu et al. 2022).

A layout is a pair `(split, join)`. `split` takes `(batch, tokens, width)`, the tokens in raster order, to
`(batch * groups, tokens / groups, width)`; `join` is its inverse.
"""

from collections.abc import Callable

from einops import rearrange
from jaxtyping import Array

Layout = tuple[Callable[[Array], Array], Callable[[Array], Array]]


def block_layout(grid: tuple[int, ...], block: int) -> Layout:
    """Blocked local attention: a group is a window of `block` tokens along each axis (MaxViT, section 3.2).

    Args:
      grid: sizes of the grid, any number of axes; multiples of `block`.
    """
    return _layout(grid, block, "(b {windows}) ({offsets}) d")


def grid_layout(grid: tuple[int, ...], block: int) -> Layout:
    """Grid attention: a group takes one token of every window, all at one offset (MaxViT, section 3.2).

    MaxViT fixes the size of a group; this fixes the distance between its tokens, so that a pair of blocked
    and grid layers connects all positions of a grid of any size. On a `block**2 x block**2` grid both are
    the same.

    Args:
      grid: sizes of the grid, any number of axes; multiples of `block`.
    """
    return _layout(grid, block, "(b {offsets}) ({windows}) d")


def _layout(grid: tuple[int, ...], block: int, pattern: str) -> Layout:
    axes = range(len(grid))
    windows, offsets = [f"n{axis}" for axis in axes], [f"i{axis}" for axis in axes]
    pairs = " ".join(f"{n} {i}" for n, i in zip(windows, offsets, strict=True))
    tokens = f"b ({pairs}) d"
    groups = pattern.format(windows=" ".join(windows), offsets=" ".join(offsets))
    sizes = {f"n{axis}": side // block for axis, side in enumerate(grid)} | dict.fromkeys(offsets, block)

    def split(x: Array) -> Array:
        return rearrange(x, f"{tokens} -> {groups}", **sizes)

    def join(x: Array) -> Array:
        return rearrange(x, f"{groups} -> {tokens}", **sizes)

    return split, join
