"""Names of the weather icons as attributes: "thunderstorms-mostly-clear-night-snow"."""

from __future__ import annotations

import dataclasses
import re

ICONS = "@meteocons/svg@0.1.0"
STYLES: dict[str, str] = {"fill": "filled", "flat": "flat", "line": "line", "monochrome": "monochrome"}
SKETCH_STYLE = "monochrome"
PRECIPITATION: tuple[str, ...] = ("drizzle", "fog", "hail", "haze", "rain", "sleet", "smoke", "snow")

_THUNDER = {"thunderstorms": "thunder", "extreme-thunderstorms": "heavy thunder"}
_SKIES = {
    "clear": "clear",
    "cloudy": "cloudy",
    "extreme": "dark cloudy",
    "mostly-clear": "mostly clear",
    "overcast": "overcast",
    "partly-cloudy": "partly cloudy",
    "starry": "starry",
}
_NAME = re.compile(
    rf"(?:(?P<thunder>{'|'.join(sorted(_THUNDER))})(?:-|$))?"
    rf"(?:(?P<sky>{'|'.join(_SKIES)})(?:-|$))?"
    r"(?:(?P<time>day|night)(?:-|$))?"
    rf"(?P<precipitation>{'|'.join(PRECIPITATION)})?"
)
# Drawings of the sun or moon with fog or haze and without a cloud; the other names with "day" have one.
_CLOUDLESS = re.compile(r"(dust|fog|haze)-(day|night)")
_DIRECTIONS = {
    "e": "east",
    "n": "north",
    "ne": "northeast",
    "nw": "northwest",
    "s": "south",
    "se": "southeast",
    "sw": "southwest",
    "w": "west",
}
_SPELLINGS = {"verry": "very", "everning": "evening", "uv": "UV", "alt": "", **_DIRECTIONS}


@dataclasses.dataclass(frozen=True)
class Weather:
    """Attributes of a weather icon; "" for what its name does not state.

    Attributes:
      sky: "clear", "mostly clear", "partly cloudy", "overcast", "cloudy", "dark cloudy" or "starry".
      time: "day" or "night".
      thunder: "thunder" or "heavy thunder".
      precipitation: one of `PRECIPITATION`.
    """

    sky: str
    time: str = ""
    thunder: str = ""
    precipitation: str = ""

    @property
    def words(self) -> int:
        """The number of attributes that are stated besides a sky that is only cloudy."""
        return sum(bool(word) for word in (self.time, self.thunder, self.precipitation)) + (
            self.sky != "cloudy"
        )


def parse_weather(name: str) -> Weather | None:
    """The attributes that a name is composed of; None for the name of another thing, such as "compass"."""
    match = _NAME.fullmatch(name)
    if match is None or _CLOUDLESS.fullmatch(name):
        return None
    found = {key: value or "" for key, value in match.groupdict().items()}
    # Without a word for the sky there is a cloud, and with a time also the sun or the moon.
    sky = _SKIES.get(found["sky"], "partly cloudy" if found["time"] else "cloudy")
    return Weather(sky, found["time"], _THUNDER.get(found["thunder"], ""), found["precipitation"])


def thing(name: str) -> str:
    """The words of any other name: "compass-ne" -> "compass northeast", "fog-day" -> "day with fog"."""
    if _CLOUDLESS.fullmatch(name):
        kind, _, time = name.partition("-")
        return f"{time} with {kind}"
    words = (_SPELLINGS.get(word, word) for word in name.split("-"))
    return " ".join(word for word in words if word)
