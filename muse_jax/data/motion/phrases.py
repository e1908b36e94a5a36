"""Captions of clips, which describe exactly what they show."""

from __future__ import annotations

from muse_jax.data.captions import emoji_prompt, with_article
from muse_jax.data.motion.weather import STYLES, Weather

MOTION_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("moving left", "moving to the left"),
    "right": ("moving right", "moving to the right"),
    "up": ("moving up", "moving upwards"),
    "down": ("moving down", "moving downwards"),
    "up left": ("moving up and left", "moving diagonally to the upper left"),
    "up right": ("moving up and right", "moving diagonally to the upper right"),
    "down left": ("moving down and left", "moving diagonally to the lower left"),
    "down right": ("moving down and right", "moving diagonally to the lower right"),
    "bounce": ("bouncing", "jumping up and down"),
    "spin clockwise": ("spinning clockwise", "rotating clockwise"),
    "spin counterclockwise": ("spinning counterclockwise", "rotating counterclockwise"),
    "grow": ("growing", "getting larger"),
    "shrink": ("shrinking", "getting smaller"),
    "fade": ("fading away", "fading out"),
    "still": ("standing still", "not moving"),
}


def move_captions(concept: str, style: str, motion: str) -> list[str]:
    """Captions of one moving drawing, the plain one first."""
    plain, other = MOTION_PHRASES[motion]
    return [
        f"{emoji_prompt(concept, style)} {plain}",
        f"{emoji_prompt(concept)} {plain}",
        f"{emoji_prompt(concept)} {other}",
        f"{emoji_prompt(concept)} {plain}, {style} style",
        f"{emoji_prompt(concept, style)}, {other}",
    ]


def pair_captions(first: tuple[str, str], second: tuple[str, str], style: str) -> list[str]:
    """Captions of two moving drawings in one style, given as (concept, motion), the plain one first."""
    (one, plain_one, other_one), (two, plain_two, other_two) = (
        (emoji_prompt(concept), *MOTION_PHRASES[motion]) for concept, motion in (first, second)
    )
    return [
        f"{one} {plain_one} and {two} {plain_two}, {style} emoji",
        f"{one} {plain_one} and {two} {plain_two}",
        f"{two} {other_two} and {one} {other_one}",
        f"{two} {plain_two} and {one} {plain_one}, {style} style",
    ]


def weather_captions(weather: Weather, style: str) -> list[str]:
    """Captions of a composed weather icon, the plain one first."""
    sky = f"{weather.sky} {weather.time or 'sky'}"
    place = with_article(sky)
    parts = [part for part in (weather.thunder, weather.precipitation) if part]
    with_parts = f"{place} with {' and '.join(parts)}" if parts else place
    word = STYLES[style]
    on_place = f"{' and '.join(reversed(parts))} on {place}" if parts else place
    return [
        f"{with_article(f'{word} weather icon')} of {with_parts}",
        with_parts,
        f"{on_place}, {word} style",
        f"{word} weather: {', '.join([sky, *parts])}",
        on_place,
    ]


def thing_captions(name: str, style: str) -> list[str]:
    """Captions of another weather icon, "compass northeast" for instance, the plain one first."""
    word = STYLES[style]
    return [
        f"{with_article(f'{word} weather icon')} of {with_article(name)}",
        with_article(name),
        f"{with_article(name)}, {word} style",
    ]


def image_captions(things: str, style: str) -> list[str]:
    """Captions of one frame, which shows emoji and no motion, the plain one first."""
    return [f"{with_article(f'{style} emoji')} of {things}", things, f"{things}, {style} style"]
