"""Captions of composed icons, which describe exactly what the image shows."""

from __future__ import annotations

from collections.abc import Sequence

from muse_jax.data.captions import with_article
from muse_jax.data.icons.sets import EMOJI_STYLES

WEIGHT_WORDS = {"outline": "outlined", "pixel": "pixelated"}
NUMBER_WORDS = {2: "two", 3: "three", 4: "four"}
POSITION_PHRASES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "center": "in the center",
    "top left": "in the top left corner",
    "top right": "in the top right corner",
    "bottom left": "in the bottom left corner",
    "bottom right": "in the bottom right corner",
}
INVERSE_RELATIONS = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
SIDES = {
    "left of": "on the left",
    "right of": "on the right",
    "above": "at the top",
    "below": "at the bottom",
}


def _words(*words: str) -> str:
    return " ".join(word for word in words if word)


def icon_phrase(concept: str, colour: str, weight: str = "", size: str = "") -> str:
    """Describes an icon: "a small thin green key icon"."""
    return with_article(_words(size, WEIGHT_WORDS.get(weight, weight), colour, concept, "icon"))


def art_captions(concept: str, style: str, tags: Sequence[str], background: str) -> list[str]:
    """Captions of a coloured drawing, the plain one first; a white background is not mentioned."""
    noun = "emoji" if style in EMOJI_STYLES else "icon"
    behind = "" if background == "white" else f"on a {background} background"
    plain = _words(f"{with_article(f'{style} {noun}')} of {with_article(concept)}", behind)
    captions = [
        plain,
        f"{_words(with_article(concept), behind)}, {style} style",
        _words(with_article(f"{concept} {noun}"), behind) + f" in the {style} style",
        _words(with_article(concept), behind),
    ]
    extra = [tag for tag in tags if tag not in concept]
    return captions + [", ".join([plain, *extra[:2]])] * bool(extra)


def single_captions(
    concept: str, colour: str, weight: str, size: str, position: str, background: str
) -> list[str]:
    """Captions of one icon, the plain one first; a size or position of "" is not mentioned."""
    icon = icon_phrase(concept, colour, weight, size)
    where = POSITION_PHRASES.get(position, "")
    behind = f"on a {background} background"
    weight = WEIGHT_WORDS.get(weight, weight)
    return [
        f"{icon} {where}, {behind}" if where else f"{icon} {behind}",
        f"{_words(with_article(_words(size, weight, colour, concept)), where)}, {background} background",
        f"{background} background with {_words(icon, where)}",
        _words(with_article(f"{colour} {concept}"), behind),
        with_article(f"{colour} {concept}"),
    ]


def pair_captions(first: tuple[str, str, str], relation: str, second: tuple[str, str, str], background: str):
    """Captions of two icons, given as (concept, colour, weight), the plain one first."""
    behind = f"on a {background} background"
    one, other = icon_phrase(*first), icon_phrase(*second)
    brief_one, brief_other = (with_article(f"{colour} {concept}") for concept, colour, _ in (first, second))
    return [
        f"{one} {relation} {other} {behind}",
        f"{brief_one} {relation} {brief_other} {behind}",
        f"{brief_other} {INVERSE_RELATIONS[relation]} {brief_one}, {background} background",
        f"{brief_one} {SIDES[relation]} and {brief_other} {SIDES[INVERSE_RELATIONS[relation]]}, {behind}",
        f"{brief_one} {relation} {brief_other}",
    ]


def count_captions(count: int, concept: str, colour: str, weight: str, background: str) -> list[str]:
    """Captions of several copies of one icon, the plain one first."""
    number = NUMBER_WORDS[count]
    weight = WEIGHT_WORDS.get(weight, weight)
    return [
        f"{_words(number, weight, colour, concept)} icons on a {background} background",
        f"{number} {colour} {concept} icons, {background} background",
        f"{background} background with {number} {colour} {concept} icons",
        f"{number} {colour} {concept} icons",
    ]
