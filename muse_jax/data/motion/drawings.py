"""Drawings of the data set `motion`: animated weather icons and the emoji that are moved."""

from __future__ import annotations

import dataclasses
import re
import tarfile
from collections import defaultdict
from pathlib import Path

from muse_jax.data.emoji.artwork import PACKAGES as EMOJI_PACKAGES
from muse_jax.data.emoji.artwork import load_artworks, tarball_name
from muse_jax.data.motion.weather import ICONS, STYLES

PACKAGES: tuple[str, ...] = (ICONS, *EMOJI_PACKAGES)

# Emoji of things: no people, flags, letters or signs, and no clocks, which are named by their time.
_GROUPS = (
    "activities",
    "animals-nature",
    "food-drink",
    "objects",
    "smileys-emotion",
    "travel-places",
)
_SHAPES = re.compile(r"\w+ (circle|square)")
_TIMES = re.compile(r".*(-thirty|o'clock)")
_MIN_STYLES = 3
_MAX_WORDS = 2


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A vector drawing.

    Attributes:
      name: "style/name-in-the-set".
      concept: what it shows: an emoji's concept, or the name of a weather icon.
      style: the set's or package's name of the style.
      svg: the document.
    """

    name: str
    concept: str
    style: str
    svg: str


def load_weather(downloads: str | Path) -> list[Drawing]:
    """The weather icons in all styles, sorted by name and style.

    Raises:
      ValueError: the tarball is missing.
    """
    tarball = Path(downloads) / tarball_name(ICONS)
    if not tarball.is_file():
        raise ValueError(
            f"{downloads} lacks {tarball.name}: run `python -m experiments.prepare_data`, which fetches it."
        )
    drawings = []
    with tarfile.open(tarball) as archive:
        for member in archive:
            _, _, path = member.name.partition("/")
            style, _, file = path.partition("/")
            if style in STYLES and file.endswith(".svg"):
                content = archive.extractfile(member)
                assert content is not None
                name = file.removesuffix(".svg")
                drawings.append(Drawing(f"{style}/{name}", name, style, content.read().decode()))
    return sorted(drawings, key=lambda drawing: (drawing.concept, drawing.style))


def load_sprites(downloads: str | Path) -> list[Drawing]:
    """The emoji that are moved: things of at most two words that at least three sets draw.

    Raises:
      ValueError: a tarball is missing.
    """
    artworks = [artwork for artwork in load_artworks(downloads) if _is_thing(artwork.concept, artwork.group)]
    styles = defaultdict(set)
    for artwork in artworks:
        styles[artwork.concept].add(artwork.style)
    return [
        Drawing(artwork.name, artwork.concept, artwork.style, artwork.svg)
        for artwork in artworks
        if len(styles[artwork.concept]) >= _MIN_STYLES
    ]


def _is_thing(concept: str, group: str) -> bool:
    if len(concept.split()) > _MAX_WORDS or _TIMES.fullmatch(concept):
        return False
    return group in _GROUPS or _SHAPES.fullmatch(concept) is not None
