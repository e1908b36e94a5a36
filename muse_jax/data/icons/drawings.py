"""Drawings of the icon sets, with their concept, style and weight."""

from __future__ import annotations

import dataclasses
import json
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from muse_jax.data.emoji.artwork import (
    SKIN_TONE_NAME,
    Label,
    known_slugs,
    names_by_code,
    names_by_slug,
    read_labels,
    tarball_name,
)
from muse_jax.data.icons.names import agreed_concepts, emoji_concept, plain_concept, split_suffix
from muse_jax.data.icons.sets import BRAND_SETS, ICONS, LABELS, SETS, IconSet

_FLUENT_NAME = re.compile(r"(.+)-(\d+)-(regular|filled|light)")
_FLUENT_COLOUR_NAME = re.compile(r"(.+)-(\d+)")


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A drawing of a concept.

    Attributes:
      name: "set/key-in-the-set".
      concept: a lower-case noun phrase, the same in every set.
      style: one of `STYLES` for a coloured drawing; the weight of a single-colour drawing, or "".
      coloured: True if the drawing has colours of its own.
      tags: other words for an emoji.
      body: the SVG elements.
      box: left, top, width and height of the drawing's area.
    """

    name: str
    concept: str
    style: str
    coloured: bool
    tags: tuple[str, ...]
    body: str
    box: tuple[float, float, float, float]


def load_drawings(downloads: str | Path) -> list[Drawing]:
    """All drawings in a folder of tarballs, in the order of the sets.

    Raises:
      ValueError: a tarball or a set in it is missing.
    """
    downloads = Path(downloads)
    missing = [tarball_name(p) for p in (ICONS, LABELS) if not (downloads / tarball_name(p)).is_file()]
    if missing:
        raise ValueError(
            f"{downloads} lacks {', '.join(missing)}: run `python -m experiments.prepare_data --data=icons`, "
            "which fetches them."
        )
    tarball = downloads / tarball_name(ICONS)
    prefixes = [icon_set.prefix for icon_set in SETS]
    sets = _read_members(tarball, [f"json/{prefix}.json" for prefix in (*prefixes, *BRAND_SETS)])
    sets = {Path(member).stem: content for member, content in sets.items()}
    named = _name_all(sets, read_labels(downloads / tarball_name(LABELS)))
    brands = {name for prefix in BRAND_SETS for name in sets[prefix]["icons"]}
    concepts = agreed_concepts(((icon_set, drawing.concept) for icon_set, drawing in named), brands)
    return [drawing for _, drawing in named if drawing.concept in concepts]


def read_collections(downloads: str | Path) -> dict[str, Any]:
    """Title, authors and licence of each set, by prefix."""
    tarball = Path(downloads) / tarball_name(ICONS)
    return _read_members(tarball, ["collections.json"])["collections.json"]


def _read_members(tarball: Path, members: list[str]) -> dict[str, Any]:
    """Reads JSON files of a tarball in one pass."""
    wanted = {f"package/{member}": member for member in members}
    contents = {}
    with tarfile.open(tarball) as archive:
        for info in archive:
            if info.name in wanted:
                file = archive.extractfile(info)
                assert file is not None
                contents[wanted[info.name]] = json.load(file)
    absent = [member for member in members if member not in contents]
    if absent:
        raise ValueError(f"{tarball} has no package/{absent[0]}: fetch that package again.")
    return contents


def _name_all(sets: dict[str, dict[str, Any]], labels: dict[str, Label]) -> list[tuple[IconSet, Drawing]]:
    coded = [(sets[s.prefix], names_by_code(sets[s.prefix], sets[s.prefix].get("chars", {}))) for s in SETS]
    emoji = [pair for icon_set, pair in zip(SETS, coded, strict=True) if icon_set.emoji]
    slugs = known_slugs(labels, emoji)
    slugs |= {name.replace("-", ""): code for name, code in slugs.items() if "-" in name}
    named = []
    for icon_set, (content, names) in zip(SETS, coded, strict=True):
        if icon_set.emoji:
            drawings = _emoji_drawings(icon_set, content, names or names_by_slug(content, slugs), labels)
        else:
            drawings = _icon_drawings(icon_set, content)
        named += [(icon_set, drawing) for drawing in drawings]
    return named


def _emoji_drawings(
    icon_set: IconSet, content: dict[str, Any], names: dict[str, str], labels: dict[str, Label]
) -> Iterable[Drawing]:
    """The first drawing of each emoji of a set, without skin tones."""
    seen = set()
    for name, code in sorted(names.items()):
        label = labels.get(code)
        concept = label and emoji_concept(label.concept, icon_set.coloured)
        if concept and concept not in seen and name in content["icons"] and not SKIN_TONE_NAME.search(name):
            seen.add(concept)
            assert label is not None
            yield _drawing(icon_set, content, name, concept, icon_set.styles[""] or "", label.tags)


def _icon_drawings(icon_set: IconSet, content: dict[str, Any]) -> Iterable[Drawing]:
    largest: dict[str, int] = {}
    parsed = []
    for name, icon in content["icons"].items():
        if icon.get("hidden"):
            continue
        stem, size = name, 0
        if icon_set.prefix == "fluent" and (match := _FLUENT_NAME.fullmatch(name)):
            stem, size = f"{match[1]}-{match[3]}", int(match[2])
        elif icon_set.prefix == "fluent-color" and (match := _FLUENT_COLOUR_NAME.fullmatch(name)):
            stem, size = match[1], int(match[2])
        largest[stem] = max(size, largest.get(stem, 0))
        parsed.append((name, stem, size))
    for name, stem, size in parsed:
        plain, style = split_suffix(stem, icon_set)
        concept = plain_concept(plain)
        if style is not None and concept and size == largest[stem]:
            yield _drawing(icon_set, content, name, concept, style, ())


def _drawing(
    icon_set: IconSet, content: dict[str, Any], name: str, concept: str, style: str, tags: tuple[str, ...]
) -> Drawing:
    icon = content["icons"][name]

    def number(key: str, default: float) -> float:
        return float(icon.get(key, content.get(key, default)))

    box = (number("left", 0), number("top", 0), number("width", 16), number("height", 16))
    return Drawing(f"{icon_set.prefix}/{name}", concept, style, icon_set.coloured, tags, icon["body"], box)
