"""Concepts of drawings: plain lower-case noun phrases, the same in all sets.

Names from user interfaces ("align-left"), letters, numbers, currencies, arrows and brands are excluded by the
words in left_out.txt. Any other name is kept if its set names things only (`IconSet.trusted`) or if two
families of sets have it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from importlib import resources

from muse_jax.data.icons.sets import IconSet

SYNONYMS = {
    "aeroplane": "airplane",
    "auto": "car",
    "automobile": "car",
    "bike": "bicycle",
    "bin": "trash can",
    "bulb": "light bulb",
    "cog": "gear",
    "cogwheel": "gear",
    "delivery truck": "truck",
    "desktop computer": "computer",
    "earth": "globe",
    "flash": "lightning",
    "bolt": "lightning",
    "lightning bolt": "lightning",
    "high voltage": "lightning",
    "home": "house",
    "ice-cream": "ice cream",
    "lightbulb": "light bulb",
    "light bulbs": "light bulb",
    "lorry": "truck",
    "magnifying glass tilted left": "magnifying glass",
    "magnifying glass tilted right": "magnifying glass",
    "magnifier": "magnifying glass",
    "mic": "microphone",
    "motorbike": "motorcycle",
    "padlock": "lock",
    "locked": "lock",
    "plane": "airplane",
    "rubbish bin": "trash can",
    "trash": "trash can",
    "trash bin": "trash can",
    "tv": "television",
    "wastebasket": "trash can",
}

# Basic shapes are concepts by themselves, but frames in names such as "heart-circle".
_SHAPES = frozenset(
    ("circle", "square", "triangle", "rectangle", "hexagon", "octagon", "pentagon", "rhombus", "oval")
)

_COUNTING = frozenset(
    ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    + ("alt", "alternate", "minimalistic")
)

# Category prefixes of names, such as "animal-donkey".
_CATEGORIES = frozenset(("animal", "food", "fruit", "sport", "tool", "weather"))

_LEFT_OUT = frozenset(resources.files(__package__).joinpath("left_out.txt").read_text().split())

_LEFT_OUT_OF_EMOJI = re.compile(
    r"\b(button|arrow|arrows|keycap|input|letter|letters|japanese|sign$|mark|symbol|currency|square$|"
    r"reverse|play|pause|record|cancel|cinema|antenna bars|infinity|trade mark|copyright|registered|"
    r"plus|minus|multiply|divide|equals|information|wireless|vibration mode|medium)\b"
)
_CLOCK_TIME = re.compile(r"o'clock|-thirty|thirty$")


def split_suffix(name: str, icon_set: IconSet) -> tuple[str, str | None]:
    """Splits a name into stem and the style or weight of its suffix (None: the drawing is left out)."""
    suffixes = sorted(icon_set.styles, key=len, reverse=True)
    for suffix in suffixes:
        if suffix and name.endswith(f"-{suffix}"):
            return name[: -len(suffix) - 1], icon_set.styles[suffix]
    return name, icon_set.styles.get("")


def plain_concept(name: str) -> str | None:
    """The concept of a name without suffix, or None: "bicycle-02" -> "bicycle", "align-left" -> None."""
    words = [re.sub(r"(?<=[a-z]{3})\d+$", "", word) for word in name.lower().split("-") if word]
    while len(words) > 1 and (words[-1].isdigit() or words[-1] in _COUNTING):
        words.pop()
    if len(words) > 1 and words[0] in _CATEGORIES:
        words.pop(0)
    if not 1 <= len(words) <= 3 or any(len(word) < 2 or not word.isalpha() for word in words):
        return None
    concept = " ".join(words)
    if len(words) == 1 and words[0] in _SHAPES:
        return concept
    if words[0] in _COUNTING or any(word in _LEFT_OUT or word in _SHAPES for word in words):
        return None
    return SYNONYMS.get(concept, concept)


def emoji_concept(label: str, coloured: bool) -> str | None:
    """The concept of an emoji's label, or None for letters, arrows and similar symbols.

    Flags and clock times are kept only if they are coloured.
    """
    if _LEFT_OUT_OF_EMOJI.search(label):
        return None
    if not coloured and (label.startswith("flag of ") or _CLOCK_TIME.search(label)):
        return None
    return SYNONYMS.get(label, label)


def agreed_concepts(named: Iterable[tuple[IconSet, str]], brands: Iterable[str]) -> set[str]:
    """The concepts to keep: those of trusted sets, and those of two families that are not brands.

    Args:
      named: (set, concept) of each drawing.
      brands: names of the drawings in sets of logos.
    """
    families, trusted = defaultdict(set), set()
    for icon_set, concept in named:
        families[concept].add(icon_set.family or icon_set.prefix)
        if icon_set.trusted:
            trusted.add(concept)
    logos = {name.replace("-", " ") for name in brands}
    agreed = {concept for concept, names in families.items() if len(names) > 1 and concept not in logos}
    return trusted | agreed
