"""Captions of records."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

_CONSONANT_SOUNDS = ("uni", "use", "eu", "one", "u.")
_PLURALS = ("men", "women", "people", "children", "feet", "teeth")


def with_article(words: str) -> str:
    """Words preceded by "a", "an" or "the", or by nothing for a plural."""
    if words.startswith("flag of "):
        return f"the {words}"
    head = words.split(" with ")[0].split()
    first, last = head[0], head[-1]
    if (
        first in _PLURALS
        or last in _PLURALS
        or last.endswith("s")
        and not last.endswith(("ss", "us", "is", "as", "ies", "'s"))
    ):
        return words
    vowel = words[0] in "aeiou" and not words.startswith(_CONSONANT_SOUNDS)
    return f"{'an' if vowel else 'a'} {words}"


def emoji_prompt(concept: str, style: str | None = None) -> str:
    """The plain prompt: "a noto emoji of a red heart", or "a red heart" without a style."""
    if style is None:
        return with_article(concept)
    return f"{with_article(style + ' emoji')} of {with_article(concept)}"


@dataclasses.dataclass(frozen=True)
class CaptionTemplate:
    """Random caption of a record; call it with the record and a numpy generator.

    The caption is one of the record's `captions`, or its `caption`, or else describes its `concept`:
      "a noto emoji of a red heart"                    plain, if no other form is drawn
      "a noto emoji of a red heart, love, valentine"   with 1 to `max_tags` of its tags
      "a red heart, noto style"                        reordered
      "a red heart"                                    without the style
    A record without any of these has the caption "".

    Args:
      style_free: probability of the form without the style, default 0.1.
      reordered: probability of the reordered form, default 0.1.
      tags: probability of the form with tags, default 0.3.
      max_tags: largest number of tags, at least 1, default 2.

    Raises:
      ValueError: probabilities below 0 or with a sum above 1, or `max_tags` below 1.
    """

    style_free: float = 0.1
    reordered: float = 0.1
    tags: float = 0.3
    max_tags: int = 2

    def __post_init__(self):
        weights = (self.style_free, self.reordered, self.tags)
        if min(weights) < 0 or sum(weights) > 1:
            raise ValueError(
                f"style_free, reordered and tags are {weights}: give probabilities of at least 0 that "
                "add up to at most 1."
            )
        if self.max_tags < 1:
            raise ValueError(
                f"max_tags is {self.max_tags}: it must be at least 1; set tags to 0 for no tags."
            )

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> str:
        if "captions" in record or "caption" in record or "concept" not in record:
            return _written_caption(record, rng)
        concept, style = record["concept"], record.get("style")
        draw = rng.random()
        if draw < self.style_free:
            return emoji_prompt(concept)
        draw -= self.style_free
        if draw < self.reordered and style:
            return f"{emoji_prompt(concept)}, {style} style"
        draw -= self.reordered
        prompt = emoji_prompt(concept, style)
        tags = [tag for tag in record.get("tags", ()) if tag not in concept]
        if draw < self.tags and tags:
            count = rng.integers(1, min(self.max_tags, len(tags)) + 1)
            prompt = ", ".join([prompt, *rng.choice(tags, size=count, replace=False)])
        return prompt


PLAIN_CAPTIONS = CaptionTemplate(style_free=0.0, reordered=0.0, tags=0.0)
"""The plain form only, for evaluation."""


def draw_captions(record: dict[str, Any], rng: np.random.Generator, count: int) -> list[str]:
    """`count` captions of a record, at least 1: the plain form, then random ones of `CaptionTemplate`."""
    template = CaptionTemplate()
    return [PLAIN_CAPTIONS(record, rng)] + [template(record, rng) for _ in range(count - 1)]


def _written_caption(record: dict[str, Any], rng: np.random.Generator) -> str:
    captions = record.get("captions")
    if captions is not None and len(captions):
        return str(captions[rng.integers(len(captions))])
    return str(record.get("caption", ""))
