"""Windows of a fixed length along the time axis of videos and audio."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of an example from `start` on, `length` frames or samples long."""

    start: int
    length: int

    @classmethod
    def draw(cls, available: int, length: int, random: bool, rng: np.random.Generator) -> Window:
        """A window at the start of `available` frames or samples, or, if `random`, at any place in them."""
        latest = max(0, available - length)
        return cls(int(rng.integers(latest + 1)) if random else 0, length)

    def apply(self, values: np.ndarray, padding: Literal["edge", "constant"]) -> np.ndarray:
        """This window of `values` along their first axis, padded at the end with the last value or zeros."""
        window = values[self.start : self.start + self.length]
        missing = self.length - len(window)
        return np.pad(window, [(0, missing)] + [(0, 0)] * (values.ndim - 1), mode=padding)


def check_length(length: int, unit: str) -> None:
    """Checks that a length is at least 1.

    Raises:
      ValueError: `length` is below 1.
    """
    if length < 1:
        raise ValueError(f"length is {length}: give the number of {unit} of an example, at least 1.")
