"""Which (concept, style) pair is trained on and which is held out: a function of the names alone."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

SPLITS = ("train", "heldout_pairs", "heldout_concepts")
HELDOUT_CONCEPTS = 0.04
# Of a concept's styles all but one may be held out; with 2.8 styles a concept this is 10 % of all pairs.
HELDOUT_PAIRS = 0.155


def uniform(*words: str) -> float:
    """A number in [0, 1) that depends on the words only."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:8], "big") / 2**64


def is_heldout_concept(concept: str) -> bool:
    """Whether a concept is held out whole, in every data set that has it."""
    return uniform("concept", concept) < HELDOUT_CONCEPTS


def assign_splits(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """(concept, style) -> one of `SPLITS`, whatever the order of `pairs`.

    Whole concepts go to `heldout_concepts`. Of the others, one style (the first by hash) is always trained on
    and each further one may go to `heldout_pairs`: every held-out pair has its concept in `train` in another
    style.
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
