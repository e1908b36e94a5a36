"""Training and held-out splits, as functions of names."""

from __future__ import annotations

from muse_jax.data.emoji.splits import is_heldout_concept, uniform
from muse_jax.data.icons.splits import heldout
from muse_jax.data.motion.moves import MOTIONS
from muse_jax.data.motion.weather import parse_weather

SPLITS = ("train", "heldout_pairs", "validation")
STORED_SPLITS = tuple(f"{kind}_{split}" for kind in ("weather", "sprites") for split in SPLITS)
_PAIRS = 0.12
_VALIDATION = 0.05


def weather_split(name: str) -> str:
    """The split of a weather icon in all its styles.

    A name of several words whose combination is held out is in `heldout_pairs`: each of its words is trained
    in other combinations. A few other names are in `validation`.
    """
    if uniform("weather validation", name) < _VALIDATION:
        return "validation"
    weather = parse_weather(name)
    if weather is not None and weather.words > 1 and uniform("weather pair", name) < _PAIRS:
        return "heldout_pairs"
    return "train"


def sprite_split(concept: str) -> str:
    """The split of a drawing that moves: `validation` for the concepts that no data set here trains."""
    return "validation" if is_heldout_concept(concept) else "train"


def heldout_motion(concept: str) -> str:
    """The one motion in which a concept is never trained; `heldout_pairs` shows it in that one."""
    return heldout("motion", concept, MOTIONS)
