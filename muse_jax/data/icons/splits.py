"""What is trained on and what is held out: functions of names alone.

Coloured drawings are split by (concept, style) as in `muse_jax.data.emoji`; a concept that is held out
whole is so in both data sets. Drawings of one colour are composed when they are read: each concept has one
colour, one place in a pair and one number in which it is never trained.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TypeVar

# What is stored: masks are drawings of one colour, art is coloured.
STORED_SPLITS = ("masks", "masks_heldout_concepts", "art", "art_heldout_pairs", "art_heldout_concepts")
SPLITS = (
    "train",
    "heldout_pairs",
    "heldout_concepts",
    "heldout_colours",
    "heldout_relations",
    "heldout_counts",
)

Choice = TypeVar("Choice")


@functools.lru_cache(1 << 16)
def heldout(kind: str, concept: str, choices: tuple[Choice, ...]) -> Choice:
    """The one of `choices` (colours, relations, numbers) in which a concept is never trained."""
    digest = hashlib.sha256(f"{kind}\0{concept}".encode()).digest()
    return choices[int.from_bytes(digest[:8], "big") % len(choices)]
