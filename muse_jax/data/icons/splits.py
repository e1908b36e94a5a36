"""Training and held-out splits, as functions of names.

Coloured drawings are split by (concept, style) as in `muse_jax.data.emoji`; a concept that is held out in all
styles is held out in both data sets. Single-colour drawings are composed on reading: each concept has one
colour, one relation in a pair and one number of copies in which it is never trained.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TypeVar

# The stored splits: masks are single-colour drawings, art is coloured.
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
    """The one of `choices` (colours, relations or numbers) in which a concept is never trained."""
    digest = hashlib.sha256(f"{kind}\0{concept}".encode()).digest()
    return choices[int.from_bytes(digest[:8], "big") % len(choices)]
