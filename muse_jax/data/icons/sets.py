"""The icon sets of the data set, and the meaning of the suffixes of their names.

Coloured sets have one or two styles of their own ("plump", "plump flat"). Drawings of single-colour sets are
stored as masks and coloured on reading.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

ICONS = "@iconify/json@2.2.535"
LABELS = "emojibase-data@17.0.0"
PACKAGES: tuple[str, ...] = (ICONS, LABELS)


@dataclasses.dataclass(frozen=True)
class IconSet:
    """A set of the icon package.

    Attributes:
      prefix: the set's name in the package.
      styles: suffix of a drawing's name ("" for none) -> style of a coloured drawing, or weight ("thin",
        "light", "bold", "solid", "outline", "duotone", "pixel" or "" for none) of a single-colour drawing.
        Drawings whose suffix maps to None are left out.
      coloured: True if the drawings have colours of their own.
      emoji: True if the names are those of emoji, which are replaced by Unicode's labels.
      trusted: True if every name is that of a thing. Names of other sets are kept only if a second family of
        sets has them.
      family: the author's sets, which count as one when names are compared; by default the prefix.
    """

    prefix: str
    styles: Mapping[str, str | None]
    coloured: bool = False
    emoji: bool = False
    trusted: bool = False
    family: str = ""


def _emoji(prefix: str, style: str) -> IconSet:
    return IconSet(prefix, {"": style}, coloured=True, emoji=True, trusted=True)


def _streamline(name: str, flat: str = "") -> IconSet:
    prefix = "streamline-color" if name == "core" else f"streamline-{name}-color"
    styles = {"": name, flat: f"{name} {flat}"} if flat else {"": name}
    return IconSet(prefix, styles, coloured=True, family="streamline")


def _named(prefix: str) -> IconSet:
    return IconSet(prefix, {"": ""}, trusted=True)


# If two sets have the same drawing, that of the earlier set is kept.
SETS: tuple[IconSet, ...] = (
    _emoji("noto", "noto"),
    _emoji("twemoji", "twemoji"),
    _emoji("fluent-emoji-flat", "fluent"),
    _emoji("emojione", "emojione"),
    _emoji("noto-v1", "blob"),
    _emoji("fluent-emoji", "glossy"),
    _emoji("fxemoji", "firefox"),
    _emoji("streamline-emojis", "streamline"),
    _streamline("core", "flat"),
    _streamline("plump", "flat"),
    _streamline("flex", "flat"),
    _streamline("sharp", "flat"),
    _streamline("ultimate"),
    _streamline("freehand"),
    _streamline("cyber"),
    _streamline("kameleon", "duo"),
    _streamline("stickies", "duo"),
    IconSet("icon-park", {"": "park"}, coloured=True, family="icon-park"),
    IconSet("fluent-color", {"": "gradient"}, coloured=True, family="fluent"),
    IconSet("flat-color-icons", {"": "flat"}, coloured=True),
    IconSet("marketeq", {"": "marketeq"}, coloured=True),
    IconSet("glyphs-poly", {"": "poly"}, coloured=True, family="glyphs"),
    IconSet("meteocons", {"": "weather line", "fill": "weather"}, coloured=True, trusted=True),
    IconSet("flat-ui", {"": "flat ui"}, coloured=True),
    IconSet("fluent-emoji-high-contrast", {"": ""}, emoji=True, trusted=True),
    IconSet("emojione-monotone", {"": ""}, emoji=True, trusted=True),
    _named("game-icons"),
    IconSet(
        "healthicons", {"": "solid", "outline": "outline", "24px": None, "outline-24px": None}, trusted=True
    ),
    _named("pinhead"),
    _named("temaki"),
    _named("maki"),
    _named("roentgen"),
    IconSet(
        "ph",
        {
            "": "",
            "thin": "thin",
            "light": "thin",
            "bold": "bold",
            "fill": "solid",
            "duotone": "duotone",
        },
    ),
    IconSet("tabler", {"": "outline", "filled": "solid"}),
    IconSet("mdi", {"": "solid", "outline": "outline"}, family="material"),
    IconSet(
        "material-symbols",
        {
            "": "solid",
            "outline": "outline",
            "rounded": None,
            "sharp": None,
            "outline-rounded": None,
            "outline-sharp": None,
        },
        family="material",
    ),
    IconSet("fluent", {"regular": "outline", "filled": "solid", "light": "thin"}),
    IconSet(
        "solar",
        {
            "bold": "solid",
            "bold-duotone": "duotone",
            "linear": "outline",
            "outline": None,
            "line-duotone": None,
            "broken": None,
        },
    ),
    IconSet("hugeicons", {"": "outline"}),
    IconSet("fa7-solid", {"": "solid"}, family="fa"),
    IconSet("iconoir", {"": "outline", "solid": "solid"}),
    IconSet("mingcute", {"line": "outline", "fill": "solid"}),
    IconSet("ri", {"line": "outline", "fill": "solid"}),
    IconSet("lucide", {"": "outline"}, family="lucide"),
    IconSet("lucide-lab", {"": "outline"}, family="lucide"),
    IconSet("boxicons", {"": "outline", "filled": "solid"}),
    IconSet("icon-park-outline", {"": "outline"}, family="icon-park"),
    IconSet("icon-park-solid", {"": "solid"}, family="icon-park"),
    IconSet("streamline", {"": "outline", "solid": "solid", "remix": None}, family="streamline"),
    IconSet("streamline-ultimate", {"": "outline", "bold": "bold"}, family="streamline"),
    IconSet("streamline-plump", {"": "outline", "solid": "solid", "remix": None}, family="streamline"),
    IconSet("streamline-sharp", {"": "outline", "solid": "solid", "remix": None}, family="streamline"),
    IconSet("streamline-flex", {"": "outline", "solid": "solid", "remix": None}, family="streamline"),
    IconSet("streamline-freehand", {"": "outline"}, family="streamline"),
    IconSet("glyphs", {"": "", "bold": "bold", "duo": "duotone", "outline": "outline"}, family="glyphs"),
    IconSet("bi", {"": "outline", "fill": "solid"}),
    IconSet("carbon", {"": "outline", "filled": "solid"}),
    IconSet("pixelarticons", {"": "pixel"}),
    IconSet("griddy-icons", {"": "outline", "filled": "solid"}),
    IconSet("tdesign", {"": "outline", "filled": "solid"}),
    IconSet("uil", {"": "outline"}),
    IconSet(
        "keyline-icons",
        {
            "": "outline",
            "fill": "solid",
            "duotone": "duotone",
            "two-tone": None,
            "sharp": None,
            "sharp-fill": None,
            "sharp-duotone": None,
            "sharp-two-tone": None,
        },
    ),
    IconSet("reicon", {"": "outline", "filled": "solid", "duotone": "duotone"}),
    IconSet(
        "iconmind",
        {
            "outline-thin": "thin",
            "outline-regular": "outline",
            "outline-bold": "bold",
            "duotone-regular": "duotone",
            "duotone-thin": None,
            "duotone-bold": None,
        },
    ),
)

# Sets of logos: their names are also left out of the other sets.
BRAND_SETS: tuple[str, ...] = ("simple-icons", "logos", "fa7-brands", "bxl", "cib", "streamline-logos")

STYLES: tuple[str, ...] = tuple(
    style for icon_set in SETS if icon_set.coloured for style in icon_set.styles.values() if style
)
WEIGHTS: tuple[str, ...] = ("thin", "bold", "solid", "outline", "duotone", "pixel")
EMOJI_STYLES: frozenset[str] = frozenset(
    style for s in SETS if s.coloured and s.emoji for style in s.styles.values() if style
)
