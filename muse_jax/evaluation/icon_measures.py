"""Measures of an icon image from its pixels: background, colours, size, position, count, relation.

The captions of the data set `icons` name a background, a foreground colour, a size, a position, a count and
the relation of two icons. A few lines of image processing measure each of them, so that no network is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from muse_jax.data.icons.palette import BACKGROUNDS, FOREGROUNDS

# Fractions of the image's side: least gap between two icons, longest side of a small and of a medium icon,
# and least offset of an icon that is off centre.
_GAP, _SMALL, _LARGE, _OFF_CENTRE = 0.045, 0.44, 0.73, 0.09
# Pixels at least this many of 255 levels from the background belong to an icon.
_INK = 48.0
# Residual in levels added to a colour that no pixel reaches.
_FAINT = 60.0


@dataclasses.dataclass(frozen=True)
class Region:
    """Icons of one colour: name of the colour, number of pixels, and box (left, top, right, bottom)."""

    foreground: str
    area: int
    box: tuple[int, int, int, int]

    @property
    def middle(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Measured attributes of an image.

    Attributes:
      background: name of the background's colour.
      regions: the colours of the icons, the largest first; none for an empty image.
      size: "small", "medium" or "large", of all icons together.
      position: "center", "left", "top right", ...
      count: number of separate icons.
    """

    background: str
    regions: tuple[Region, ...]
    size: str
    position: str
    count: int


def _nearest(colour: Float[np.ndarray, 3], names: Mapping[str, tuple[int, int, int]]) -> str:
    return min(names, key=lambda name: float(np.linalg.norm(colour - names[name])))


def _foreground(pixels: Float[np.ndarray, "count 3"], background: Float[np.ndarray, 3]) -> str:
    """The named colour that best explains pixels as mixtures of it with the background.

    A colour that no pixel reaches is penalized, since grey on white is also a faint black.
    """
    offsets = pixels - background
    scores = {}
    for name, colour in FOREGROUNDS.items():
        line = np.subtract(colour, background)
        length = float(np.linalg.norm(line))
        if length < _INK:
            continue
        share = np.clip(offsets @ line / length**2, 0, 1)
        residual = np.linalg.norm(offsets - share[:, None] * line, axis=1)
        # Pixels far from the background say more about the colour.
        weight = np.linalg.norm(offsets, axis=1)
        peak = np.quantile(offsets @ line / length**2, 0.9)
        scores[name] = float(np.average(residual, weights=weight)) + _FAINT * abs(1 - peak)
    return min(scores, key=lambda name: scores[name])


def _box(covered: Bool[np.ndarray, "height width"]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _pieces(covered: Bool[np.ndarray, "height width"], side: int) -> list[Bool[np.ndarray, "height width"]]:
    """Separate icons, largest first, without specks."""
    closed = ndimage.maximum_filter(covered, size=max(2, round(_GAP * side)))
    labels, count = ndimage.label(closed, structure=np.ones((3, 3)))
    pieces = [covered & (labels == label) for label in range(1, count + 1)]
    pieces = sorted(pieces, key=lambda piece: -int(piece.sum()))
    return [piece for piece in pieces if piece.sum() >= 0.1 * pieces[0].sum()]


def measure(image: UInt8[np.ndarray, "side side 3"]) -> Measurement:
    """Measures an image of icons in single colours on a plain background."""
    side = image.shape[0]
    pixels = image.astype(np.float64)
    width = max(1, side // 64)
    frame = np.ones((side, side), bool)
    frame[width:-width, width:-width] = False
    background = np.median(pixels[frame], axis=0)
    covered = np.linalg.norm(pixels - background, axis=-1) > _INK
    pieces = _pieces(covered, side) if covered.any() else []
    colours: dict[str, Any] = {}
    for piece in pieces:
        name = _foreground(pixels[piece], background)
        colours[name] = colours[name] | piece if name in colours else piece
    regions = [Region(name, int(piece.sum()), _box(piece)) for name, piece in colours.items()]
    size, position = _extent(_box(covered), side) if pieces else ("", "")
    return Measurement(
        background=_nearest(background, BACKGROUNDS),
        regions=tuple(sorted(regions, key=lambda region: -region.area)),
        size=size,
        position=position,
        count=len(pieces),
    )


def _extent(box: tuple[int, int, int, int], side: int) -> tuple[str, str]:
    """Size and position of a box."""
    left, top, right, bottom = box
    longer = max(right - left, bottom - top) / side
    size = "small" if longer < _SMALL else "medium" if longer < _LARGE else "large"
    x, y = (left + right) / 2 / side - 0.5, (top + bottom) / 2 / side - 0.5
    words = (
        "top" if y < -_OFF_CENTRE else "bottom" if y > _OFF_CENTRE else "",
        "left" if x < -_OFF_CENTRE else "right" if x > _OFF_CENTRE else "",
    )
    return size, " ".join(word for word in words if word) or "center"


def relation(first: Region, second: Region) -> str:
    """Position of the first region: "left of", "right of", "above" or "below" the second."""
    x, y = np.subtract(first.middle, second.middle)
    if abs(x) >= abs(y):
        return "left of" if x < 0 else "right of"
    return "above" if y < 0 else "below"
