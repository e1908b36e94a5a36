"""Named colours of composed icons, and combinations of them that can be told apart.

Colours are sRGB triples of 0 to 255. Any two foregrounds and any two backgrounds remain distinguishable after
a change of `JITTER` in each channel.
"""

from __future__ import annotations

import numpy as np

Colour = tuple[int, int, int]

FOREGROUNDS: dict[str, Colour] = {
    "red": (214, 32, 38),
    "orange": (245, 130, 30),
    "yellow": (252, 212, 30),
    "green": (40, 160, 62),
    "blue": (35, 95, 215),
    "purple": (128, 48, 165),
    "pink": (242, 105, 172),
    "brown": (125, 75, 40),
    "black": (16, 16, 18),
    "gray": (128, 128, 128),
    "white": (250, 250, 250),
}
BACKGROUNDS: dict[str, Colour] = {
    "white": (255, 255, 255),
    "black": (18, 18, 20),
    "light gray": (205, 205, 205),
    "light blue": (172, 218, 255),
    "light green": (175, 238, 175),
    "light yellow": (255, 247, 188),
    "light pink": (255, 198, 220),
    "light purple": (205, 180, 250),
    "light orange": (255, 200, 150),
    "dark blue": (24, 42, 98),
    "dark green": (16, 74, 48),
}
JITTER = 6
_CONTRAST = 120.0


def distance(first: Colour, second: Colour) -> float:
    """Euclidean distance in RGB, 0 to 441."""
    return float(np.linalg.norm(np.subtract(first, second)))


# Foreground -> backgrounds with sufficient contrast, and foreground -> distinguishable foregrounds.
BACKGROUNDS_FOR: dict[str, tuple[str, ...]] = {
    name: tuple(other for other, shade in BACKGROUNDS.items() if distance(colour, shade) > _CONTRAST)
    for name, colour in FOREGROUNDS.items()
}
PARTNERS_FOR: dict[str, tuple[str, ...]] = {
    name: tuple(other for other, shade in FOREGROUNDS.items() if distance(colour, shade) > _CONTRAST)
    for name, colour in FOREGROUNDS.items()
}


def jittered(colour: Colour, rng: np.random.Generator) -> Colour:
    """A random shade of `colour`: each channel changes by up to `JITTER`; pure white does not change."""
    if colour == (255, 255, 255):
        return colour
    red, green, blue = (
        min(max(level + change, 0), 255)
        for level, change in zip(colour, rng.integers(-JITTER, JITTER + 1, 3).tolist(), strict=True)
    )
    return red, green, blue
