"""Composition of images from stored drawings, with captions: single icons, pairs, several copies and art.

The result is a function of the drawings and the generator. Images have the size of the drawings, `SIZE`
pixels.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from muse_jax.data.icons import palette, phrases
from muse_jax.data.icons.rendering import MARGIN, SIZE
from muse_jax.data.icons.splits import heldout

# Range of the longer side of an icon in pixels, the upper bound exclusive.
SIZES = {"small": (36, 48), "": (64, 80), "large": (106, SIZE - 2 * MARGIN + 1)}
PLACES = {
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "center": (0, 0),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
COUNTS = (2, 3, 4)
# Centers of the copies and largest side of a copy, as fractions of the image's side.
LAYOUTS: dict[int, tuple[tuple[tuple[tuple[float, float], ...], float], ...]] = {
    2: (
        (((0.27, 0.5), (0.73, 0.5)), 0.36),
        (((0.5, 0.27), (0.5, 0.73)), 0.36),
        (((0.28, 0.28), (0.72, 0.72)), 0.36),
    ),
    3: (
        (((0.18, 0.5), (0.5, 0.5), (0.82, 0.5)), 0.24),
        (((0.5, 0.18), (0.5, 0.5), (0.5, 0.82)), 0.24),
        (((0.5, 0.27), (0.27, 0.72), (0.73, 0.72)), 0.34),
    ),
    4: (
        (((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)), 0.34),
        (((0.5, 0.2), (0.2, 0.5), (0.8, 0.5), (0.5, 0.8)), 0.22),
    ),
}
PAIR_SHARE, COUNT_SHARE = 0.25, 0.2
_EDGE = 3  # pixels between an icon and the edge of the image
_UNFLIPPED = re.compile(
    r"flag|hand|finger|thumb|left|right|facing|o'clock|thirty|calendar|abc|clock|watch|pinch"
)


@dataclasses.dataclass(frozen=True)
class Mask:
    """A single-colour drawing: `alpha` is a grey PIL image of `SIZE` pixels; the rest as in `Rendering`."""

    alpha: Image.Image
    name: str
    concept: str
    weight: str
    parts: int


def _pick(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _stamp(canvas: Image.Image, mask: Mask, colour: palette.Colour, x: float, y: float, side: float) -> None:
    """Paints a mask with center (x, y), scaled so that its longer side is `side` pixels."""
    whole = max(1, round(side * SIZE / (SIZE - 2 * MARGIN)))
    alpha = mask.alpha if whole == SIZE else mask.alpha.resize((whole, whole), Image.Resampling.BILINEAR)
    canvas.paste(colour, (round(x - whole / 2), round(y - whole / 2)), alpha)


def _canvas(background: str, rng: np.random.Generator) -> Image.Image:
    return Image.new("RGB", (SIZE, SIZE), palette.jittered(palette.BACKGROUNDS[background], rng))


def _background(rng: np.random.Generator, allowed: Sequence[str]) -> str:
    """White with probability 0.3 if allowed, else any allowed background."""
    return "white" if "white" in allowed and rng.random() < 0.3 else _pick(rng, allowed)


def trained_colours(concept: str) -> list[str]:
    """The foreground colours in which a concept is trained: all but one."""
    return [name for name in palette.FOREGROUNDS if name != heldout_colour(concept)]


def heldout_colour(concept: str) -> str:
    """The foreground colour in which a concept is never trained."""
    return heldout("colour", concept, tuple(palette.FOREGROUNDS))


def heldout_relation(concept: str) -> str:
    """The relation to a second icon in which a concept is never trained."""
    return heldout("relation", concept, tuple(RELATIONS))


def heldout_count(concept: str) -> int:
    """The number of copies in which a concept is never trained."""
    return heldout("count", concept, COUNTS)


def compose_single(mask: Mask, colour: str, rng: np.random.Generator) -> dict[str, Any]:
    """One icon in `colour` with a random size, position and background."""
    size = _pick(rng, ("small", "", "", "large"))
    place = _pick(rng, tuple(PLACES)) if size == "small" else _pick(rng, tuple(PLACES)[:5])
    if size == "large" or rng.random() < 0.3:
        place = "center"
    background = _background(rng, palette.BACKGROUNDS_FOR[colour])
    side = int(rng.integers(*SIZES[size]))
    free = (SIZE - side) / 2 - _EDGE
    shift = rng.integers(-3, 4, 2) if size != "large" else (0, 0)
    x, y = (
        SIZE / 2 + sign * free + (-sign * abs(move) if sign else move)
        for sign, move in zip(PLACES[place], shift, strict=True)
    )
    image = _canvas(background, rng)
    _stamp(image, mask, palette.jittered(palette.FOREGROUNDS[colour], rng), x, y, side)
    said = "" if place == "center" and (size == "large" or rng.random() < 0.5) else place
    return {
        "image": image,
        "captions": phrases.single_captions(mask.concept, colour, mask.weight, size, said, background),
        "kind": "single",
        "name": mask.name,
        "concept": mask.concept,
        "weight": mask.weight,
        "foreground": colour,
        "background": background,
        "size": size or "medium",
        "position": place,
        "count": 1,
    }


def compose_pair(
    first: Mask, colour: str, relation: str, second: Mask, second_colour: str, rng: np.random.Generator
) -> dict[str, Any]:
    """Two icons in two colours; `relation` ("left of", ...) is that of the first to the second."""
    allowed = [
        name for name in palette.BACKGROUNDS_FOR[colour] if name in palette.BACKGROUNDS_FOR[second_colour]
    ]
    background = _background(rng, allowed)
    image = _canvas(background, rng)
    dx, dy = RELATIONS[relation]
    across = rng.integers(-10, 11)
    for mask, name, sign in ((first, colour, 1), (second, second_colour, -1)):
        side = int(rng.integers(42, 53))
        along = SIZE / 4 + rng.integers(-2, 3)
        x = SIZE / 2 + (sign * dx * along if dx else across)
        y = SIZE / 2 + (sign * dy * along if dy else across)
        _stamp(image, mask, palette.jittered(palette.FOREGROUNDS[name], rng), x, y, side)
    return {
        "image": image,
        "captions": phrases.pair_captions(
            (first.concept, colour, first.weight),
            relation,
            (second.concept, second_colour, second.weight),
            background,
        ),
        "kind": "pair",
        "name": first.name,
        "concept": first.concept,
        "weight": first.weight,
        "foreground": colour,
        "background": background,
        "relation": relation,
        "second_concept": second.concept,
        "second_foreground": second_colour,
        "count": 2,
    }


def compose_count(mask: Mask, colour: str, count: int, rng: np.random.Generator) -> dict[str, Any]:
    """`count` copies of an icon in one colour."""
    background = _background(rng, palette.BACKGROUNDS_FOR[colour])
    image = _canvas(background, rng)
    centres, largest = _pick(rng, LAYOUTS[count])
    side = SIZE * largest * rng.uniform(0.85, 1.0)
    shade = palette.jittered(palette.FOREGROUNDS[colour], rng)
    for x, y in centres:
        move = rng.integers(-1, 2, 2)
        _stamp(image, mask, shade, SIZE * x + move[0], SIZE * y + move[1], side)
    return {
        "image": image,
        "captions": phrases.count_captions(count, mask.concept, colour, mask.weight, background),
        "kind": "count",
        "name": mask.name,
        "concept": mask.concept,
        "weight": mask.weight,
        "foreground": colour,
        "background": background,
        "count": count,
    }


def compose_art(
    image: Image.Image, concept: str, style: str, tags: Sequence[str], plain: bool, rng: np.random.Generator
) -> dict[str, Any]:
    """A coloured RGBA drawing on a background: scaled, shifted and mirrored at random unless `plain`."""
    background = "white" if plain or rng.random() < 0.5 else _pick(rng, tuple(palette.BACKGROUNDS))
    canvas = Image.new("RGB", (SIZE, SIZE), palette.BACKGROUNDS[background])
    left = top = 0
    if not plain:
        side = round(SIZE * rng.uniform(0.75, 1.0))
        if side < SIZE:
            image = image.resize((side, side), Image.Resampling.BILINEAR)
            left, top = rng.integers(SIZE - side + 1, size=2).tolist()
        if rng.random() < 0.5 and not _UNFLIPPED.search(concept):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    canvas.paste(image, (left, top), image)
    return {
        "image": canvas,
        "captions": phrases.art_captions(concept, style, tags, background),
        "kind": "art",
        "background": background,
        "style": style,
    }
