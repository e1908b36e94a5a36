"""Splits of (concept, style) pairs into training and held-out ones, as a function of their names."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

SPLITS = ("train", "heldout_pairs", "heldout_concepts")
HELDOUT_CONCEPTS = 0.04
# All styles of a concept but one may be held out; with 2.8 styles per concept this is 10 % of all pairs.
HELDOUT_PAIRS = 0.155


def uniform(*words: str) -> float:
    """Hashes words to a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:8], "big") / 2**64


def is_heldout_concept(concept: str) -> bool:
    """True if a concept is held out in all styles and data sets."""
    return uniform("concept", concept) < HELDOUT_CONCEPTS


def assign_splits(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Assigns each (concept, style) to one of `SPLITS`, independently of the order of `pairs`.

    Some concepts go to `heldout_concepts` in all styles. For any other concept, one style (the first by hash)
    is in `train` and each further one may be in `heldout_pairs`, so that the concept of every held-out pair
    is trained in another style.
    """
    styles = defaultdict(set)
    for concept, style in pairs:
        styles[concept].add(style)
    splits = {}
    for concept, names in styles.items():
        if is_heldout_concept(concept):
            splits.update({(concept, style): "heldout_concepts" for style in names})
            continue
        first, *others = sorted(names, key=lambda style: uniform("order", concept, style))
        splits[concept, first] = "train"
        for style in others:
            held_out = uniform("pair", concept, style) < HELDOUT_PAIRS
            splits[concept, style] = "heldout_pairs" if held_out else "train"
    return splits
