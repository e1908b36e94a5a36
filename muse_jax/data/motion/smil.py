"""Animated SVG drawings (SMIL) as still ones at a given time.

Supported is what the weather icons use: `animate` of a number and `animateTransform` of translation, rotation
and scale, with `keyTimes`, linear or spline interpolation, `begin`, endless repetition and additive="sum".
"""

from __future__ import annotations

import bisect
import dataclasses
import re
import xml.etree.ElementTree as ET

_SVG = "http://www.w3.org/2000/svg"
_TRANSFORMS = ("translate", "rotate", "scale")
ET.register_namespace("", _SVG)

Spline = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Animation:
    """One animated attribute.

    Attributes:
      attribute: the attribute's name.
      transform: "translate", "rotate" or "scale" for the attribute "transform", else "".
      values: the key values, each a tuple of numbers.
      times: the time of each value as a part of `duration`, from 0 to 1.
      splines: the control points (x1, y1, x2, y2) of each interval, or () for linear interpolation.
      begin, duration: in seconds.
      additive: True if the transform is added to the element's own.
    """

    attribute: str
    transform: str
    values: tuple[tuple[float, ...], ...]
    times: tuple[float, ...]
    splines: tuple[Spline, ...]
    begin: float
    duration: float
    additive: bool = False

    def at(self, seconds: float) -> tuple[float, ...] | None:
        """The value at a time; None before the beginning."""
        if seconds < self.begin:
            return None
        phase = (seconds - self.begin) / self.duration % 1.0
        interval = min(bisect.bisect_right(self.times, phase), len(self.times) - 1) - 1
        start, stop = self.times[interval], self.times[interval + 1]
        progress = (phase - start) / (stop - start) if stop > start else 0.0
        if self.splines:
            progress = ease(self.splines[interval], progress)
        pairs = zip(self.values[interval], self.values[interval + 1], strict=True)
        return tuple(first + progress * (last - first) for first, last in pairs)

    def written(self, value: tuple[float, ...]) -> str:
        """The attribute's text for a value."""
        numbers = " ".join(f"{number:.6g}" for number in value)
        return f"{self.transform}({numbers})" if self.transform else numbers


def ease(spline: Spline, x: float) -> float:
    """The height at `x` of the cubic Bézier curve from (0, 0) to (1, 1) with two control points."""
    x1, y1, x2, y2 = spline

    def curve(first: float, second: float, t: float) -> float:
        return 3 * first * t * (1 - t) ** 2 + 3 * second * t**2 * (1 - t) + t**3

    low, high = 0.0, 1.0
    for _ in range(40):  # x grows with t
        middle = (low + high) / 2
        low, high = (middle, high) if curve(x1, x2, middle) < x else (low, middle)
    return curve(y1, y2, (low + high) / 2)


class AnimatedDrawing:
    """An animated SVG document.

    Args:
      svg: the document.

    Raises:
      ValueError: an animation of a form that is not supported.
    """

    def __init__(self, svg: str):
        self._root = ET.fromstring(svg)
        self._animated: list[tuple[ET.Element, dict[str, str], list[Animation]]] = []
        for parent in self._root.iter():
            children = [child for child in parent if child.tag.startswith(f"{{{_SVG}}}animate")]
            if children:
                own = dict(parent.attrib)
                self._animated.append((parent, own, [_parse(child) for child in children]))
            for child in children:
                parent.remove(child)

    @property
    def animations(self) -> list[Animation]:
        """All animations of the document."""
        return [animation for *_, animations in self._animated for animation in animations]

    def at(self, seconds: float) -> str:
        """The still SVG document at a time."""
        for element, own, animations in self._animated:
            element.attrib.clear()
            element.attrib.update(own)
            for animation in animations:
                value = animation.at(seconds)
                if value is None:
                    continue
                text = animation.written(value)
                if animation.additive:
                    text = f"{element.get(animation.attribute, '')} {text}".strip()
                element.set(animation.attribute, text)
        return ET.tostring(self._root, encoding="unicode")


def _parse(element: ET.Element) -> Animation:
    get = element.attrib
    kind = element.tag.removeprefix(f"{{{_SVG}}}")
    transform = get.get("type", "translate") if kind == "animateTransform" else ""
    if kind not in ("animate", "animateTransform") or (transform and transform not in _TRANSFORMS):
        raise ValueError(
            f"the SVG has <{kind}> of type {transform!r}: only translate, rotate and scale are supported."
        )
    values = tuple(_numbers(value) for value in get["values"].split(";") if value.strip())
    if len(values) < 2 or get.get("repeatCount") != "indefinite":
        raise ValueError(
            f"the SVG has an animation of {get['values']!r} that does not repeat between values."
        )
    times = _times(get, len(values))
    splines: tuple[Spline, ...] = ()
    if get.get("calcMode") == "spline":
        splines = tuple(_spline(part) for part in get["keySplines"].split(";") if part.strip())
        if len(splines) != len(values) - 1:
            raise ValueError(f"the SVG has {len(splines)} keySplines between {len(values)} values.")
    return Animation(
        get["attributeName"],
        transform,
        values,
        times,
        splines,
        _seconds(get.get("begin", "0s")),
        _seconds(get["dur"]),
        get.get("additive") == "sum",
    )


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in re.split(r"[\s,]+", text.strip()))


def _times(get: dict[str, str], count: int) -> tuple[float, ...]:
    if "keyTimes" not in get:
        return tuple(index / (count - 1) for index in range(count))
    times = tuple(float(time) for time in get["keyTimes"].split(";") if time.strip())
    if len(times) != count:
        raise ValueError(f"the SVG has {len(times)} keyTimes of {count} values.")
    return times


def _spline(text: str) -> Spline:
    x1, y1, x2, y2 = _numbers(text)
    return x1, y1, x2, y2


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))
