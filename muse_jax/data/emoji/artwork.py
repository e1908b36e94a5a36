"""Emoji drawings: read from vector sets, named by a common concept and rendered.

Each npm package of `PACKAGES` contains a JSON file of SVG bodies by name, and most contain a table from code
points to names. The concept is emojibase's label of the code point, so that it is the same in all styles. A
set without code points (emojione) is matched by its names and their aliases.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import tarfile
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STYLES: dict[str, str] = {
    "noto": "@iconify-json/noto@1.2.9",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "fluent": "@iconify-json/fluent-emoji-flat@1.2.6",
    "emojione": "@iconify-json/emojione@1.2.3",
}
LABELS = "emojibase-data@17.0.0"
PACKAGES: tuple[str, ...] = (*STYLES.values(), LABELS)

_SKIN_TONES = frozenset(["1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"])
SKIN_TONE_NAME = re.compile(r"-skin-tone|-tone\d|-(medium-)?(light|dark|medium)$")
_COMPONENT_GROUP = 2  # skin tones and hair colours, which are no emoji by themselves


@dataclasses.dataclass(frozen=True)
class Artwork:
    """A drawing of a concept in a style; `name` is "style/key-in-the-set"."""

    name: str
    concept: str
    style: str
    tags: tuple[str, ...]
    group: str
    svg: str


@dataclasses.dataclass(frozen=True)
class Label:
    """Name, slug, tags and group of an emoji in emojibase."""

    concept: str
    slug: str
    tags: tuple[str, ...]
    group: str


def tarball_name(package: str) -> str:
    """File name that `npm pack` gives to "@scope/name@version" or "name@version"."""
    name, version = package.rsplit("@", 1)
    return f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"


def concept_name(label: str) -> str:
    """Normalises a label to plain lower-case words: "flag: Côte d’Ivoire" -> "flag of cote d'ivoire"."""
    text = unicodedata.normalize("NFKD", label.replace("’", "'")).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"^flag: ", "flag of ", text)
    text = re.sub(r": (?=[a-z ]*(hair|beard|bald))", " with ", text)
    text = (
        text.replace("with bald", "with bald head")
        .replace("&", "and")
        .replace("#", "hash")
        .replace("*", "asterisk")
    )
    return " ".join(re.sub(r"[^a-z0-9'.,-]+", " ", text).split())


def slug(text: str) -> str:
    """Normalises a name to the form that all sets share: its words without "and" and "flag for"."""
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", text.replace("'", "").replace("’", "").replace(".", "")).strip("-")
    words = re.sub(r"^(flag-for-)?flag-(for-)?", "flag-", words)
    return "-".join(word for word in words.split("-") if word != "and")


def _bare(hexcode: str) -> str:
    """Removes variation selectors from a sequence of code points."""
    return "-".join(point for point in hexcode.lower().split("-") if point != "fe0f")


def _read_json(tarball: Path, member: str, default: Any = None) -> Any:
    with tarfile.open(tarball) as archive:
        try:
            file = archive.extractfile(f"package/{member}")
        except KeyError:
            if default is not None:
                return default
            raise ValueError(f"{tarball} has no package/{member}: fetch that package again.") from None
        assert file is not None
        return json.load(file)


def read_labels(tarball: Path) -> dict[str, Label]:
    """Labels by code points, without skin tones and hair colours."""
    groups = _read_json(tarball, "meta/groups.json")["groups"]
    labels = {}
    for entry in _read_json(tarball, "en/data.json"):
        group = entry.get("group", _COMPONENT_GROUP)
        if group != _COMPONENT_GROUP:
            labels[_bare(entry["hexcode"])] = Label(
                concept=concept_name(entry["label"]),
                slug=slug(entry["label"]),
                tags=tuple(concept_name(tag) for tag in entry.get("tags", ())),
                group=groups[str(group)],
            )
    return labels


def svg_document(icon_set: dict, name: str) -> str | None:
    """The drawing `name` as an SVG document, with aliases and their mirroring resolved; None if absent."""
    alias = icon_set.get("aliases", {}).get(name, {})
    icon = icon_set["icons"].get(alias.get("parent", name))
    if icon is None:
        return None
    width = icon.get("width", icon_set.get("width", 16))
    height = icon.get("height", icon_set.get("height", 16))
    body = icon["body"]
    if alias.get("hFlip"):
        body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{body}</svg>'
    )


def names_by_code(icon_set: dict, codes: dict[str, str]) -> dict[str, str]:
    """Name in the set -> code points, without skin tones."""
    names: dict[str, str] = {}
    for hexcode in sorted(codes):
        if _SKIN_TONES.isdisjoint(hexcode.lower().split("-")):
            names.setdefault(codes[hexcode], _bare(hexcode))
    return names


def known_slugs(labels: dict[str, Label], sets: Iterable[tuple[dict, dict[str, str]]]) -> dict[str, str]:
    """Slug of every label, name and alias -> code points; labels take precedence, then names."""
    slugs = {label.slug: code for code, label in sorted(labels.items())}
    sets = list(sets)
    for _, names in sets:
        for name, code in sorted(names.items()):
            slugs.setdefault(slug(name), code)
    for icon_set, names in sets:
        for alias, target in sorted(icon_set.get("aliases", {}).items()):
            if target["parent"] in names:
                slugs.setdefault(slug(alias), names[target["parent"]])
    return {slug: code for slug, code in slugs.items() if code in labels}


def names_by_slug(icon_set: dict, slugs: dict[str, str]) -> dict[str, str]:
    """Like `names_by_code`, for a set without code points: matched by a name or one of its aliases."""
    aliases: dict[str, list[str]] = {}
    for alias, target in icon_set.get("aliases", {}).items():
        aliases.setdefault(target["parent"], []).append(alias)
    names = {}
    for name in icon_set["icons"]:
        if not SKIN_TONE_NAME.search(name):
            code = next(
                (slugs[s] for s in map(slug, [name, *sorted(aliases.get(name, []))]) if s in slugs), None
            )
            if code is not None:
                names[name] = code
    return names


def load_artworks(downloads: str | Path, styles: Iterable[str] = tuple(STYLES)) -> list[Artwork]:
    """All distinct drawings of `styles` in a folder of tarballs, sorted by concept and style.

    A drawing that a set uses for several concepts is kept once, under the shortest of their names, so that
    each image has one caption and belongs to one split.

    Raises:
      ValueError: a tarball is missing or has unexpected contents.
    """
    downloads = Path(downloads)
    styles = list(styles)
    missing = [
        tarball_name(p)
        for p in [*(STYLES[s] for s in styles), LABELS]
        if not (downloads / tarball_name(p)).is_file()
    ]
    if missing:
        raise ValueError(
            f"{downloads} lacks {', '.join(missing)}: run `python -m experiments.prepare_data`, "
            "which fetches them."
        )
    labels = read_labels(downloads / tarball_name(LABELS))
    icon_sets, names = {}, {}
    for style in styles:
        tarball = downloads / tarball_name(STYLES[style])
        icon_sets[style] = _read_json(tarball, "icons.json")
        names[style] = names_by_code(icon_sets[style], _read_json(tarball, "chars.json", default={"": ""}))
        names[style].pop("", None)
    slugs = known_slugs(labels, [(icon_sets[s], names[s]) for s in styles])
    artworks = []
    for style in styles:
        style_names = names[style] or names_by_slug(icon_sets[style], slugs)
        artworks += _one_style(style, icon_sets[style], style_names, labels)
    return sorted(artworks, key=lambda artwork: (artwork.concept, artwork.style))


def _one_style(style: str, icon_set: dict, names: dict[str, str], labels: dict[str, Label]) -> list[Artwork]:
    drawings, concepts = set(), set()
    artworks = []
    known = [(labels[code], name) for name, code in names.items() if code in labels]
    for label, name in sorted(known, key=lambda item: (len(item[0].concept), item[0].concept, item[1])):
        svg = svg_document(icon_set, name)
        if svg is None or svg in drawings or label.concept in concepts:
            continue
        drawings.add(svg)
        concepts.add(label.concept)
        artworks.append(Artwork(f"{style}/{name}", label.concept, style, label.tags, label.group, svg))
    return artworks


def render_png(svg: str, size: int) -> bytes:
    """Renders a drawing on white as an RGB PNG of `size` x `size` pixels, centred if it is not square.

    Raises:
      ValueError: the SVG cannot be parsed.
    """
    import resvg_py
    from PIL import Image

    svg = svg.replace("<svg ", f'<svg width="{size}" height="{size}" ', 1)
    rendered = resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True)
    buffer = io.BytesIO()
    Image.open(io.BytesIO(bytes(rendered))).convert("RGB").save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()
