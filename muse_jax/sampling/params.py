"""Sampling parameters of each kind of network: defaults, ranges, and their form in a config."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import numpy as np

from muse_jax.sampling.lopar import lopar_top_k
from muse_jax.sampling.masked import ORDERS


@dataclass(frozen=True)
class Settings:
    """Sampling parameters, from a config's section or as the arguments of a call replace them."""

    def but(self, **given: Any) -> Self:
        """These settings with those of `given` that are not None in their place."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Self:
        """From the section of a config; keys that it lacks get their defaults."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(given) - known):
            raise ValueError(f"decoding has the unknown key {unknown[0]!r}: it may have {sorted(known)}.")
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})

    def to_dict(self) -> dict[str, Any]:
        """What `from_mapping` reads."""
        return asdict(self)


@dataclass(frozen=True)
class Decoding(Settings):
    """How the tokens of a stage are drawn; see `muse_jax.sampling.masked_decode`.

    num_steps: passes of the network, at least 1.
    guidance_scale, temperature, choice_temperature: 0 or greater.
    order: "confidence" or "halton".

    Raises ValueError, one sentence, for a value out of range.
    """

    num_steps: int = 12
    guidance_scale: float = 3.0
    temperature: float = 1.0
    choice_temperature: float = 4.5
    order: str = "confidence"

    def __post_init__(self):
        check_steps("num_steps", self.num_steps)
        for name in ("guidance_scale", "temperature", "choice_temperature"):
            check_not_negative(name, getattr(self, name))
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, given {self.order!r}.")


@dataclass(frozen=True)
class TokenDecoding(Settings):
    """How tokens are drawn from their logits; see `muse_jax.sampling.Sampling`.

    temperature, inner_temperature: 0 or greater; of all codes, and of those inside a cluster.
    top_k, top_clusters: 0 for all; without top_clusters codes are drawn one by one.
    top_p: above 0 and at most 1.

    Raises ValueError, one sentence, for a value out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    top_clusters: int = 0
    inner_temperature: float = 1.0

    def __post_init__(self):
        for name in ("temperature", "inner_temperature"):
            check_not_negative(name, getattr(self, name))
        for name in ("top_k", "top_clusters"):
            check_whole(name, getattr(self, name), 0)
        check_share(self.top_p, "top_p")


@dataclass(frozen=True)
class CogLMDecoding(TokenDecoding):
    """How CogLM draws images.

    text_weight, infill_text_weight: added to the attention logits of the text, where a whole image is drawn
      and where a region is; 1.4 for both in the published programs.
    candidates, keep: images that are drawn of each prompt, and how many of them, the best, are kept.
    """

    text_weight: float = 1.4
    infill_text_weight: float = 1.4
    candidates: int = 8
    keep: int = 1

    def __post_init__(self):
        super().__post_init__()
        for name in ("text_weight", "infill_text_weight"):
            check_not_negative(name, getattr(self, name))
        for name in ("candidates", "keep"):
            check_steps(name, getattr(self, name))
        if self.keep > self.candidates:
            raise ValueError(
                f"keep is {self.keep}, but only {self.candidates} candidates of each prompt are drawn: ask "
                "for more candidates, or keep fewer."
            )


@dataclass(frozen=True)
class LoparDecoding(Settings):
    """How fine tokens are redrawn in turns; see `muse_jax.sampling.lopar_decode`.

    temperature: 0 or greater.
    top_k: at least 1, of each turn; by default of the six that enlarge three times.
    """

    temperature: float = 1.0
    top_k: tuple[int, ...] = lopar_top_k(6)

    def __post_init__(self):
        check_not_negative("temperature", self.temperature)
        for size in self.top_k:
            check_steps("top_k of each turn", size)


def check_steps(name: str, value: Any) -> None:
    """Refuses anything but a whole number of at least 1."""
    check_whole(name, value, 1)


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuses anything but a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, given {value!r}.")


def check_not_negative(name: str, value: Any) -> None:
    """Refuses anything but a finite number of at least 0."""
    if (
        not isinstance(value, int | float | np.integer | np.floating)
        or isinstance(value, bool)
        or not 0 <= value < float("inf")
    ):
        raise ValueError(f"{name} must be a number of 0 or greater, given {value!r}.")


def check_share(share: Any, name: str = "share") -> None:
    """Refuses anything but a number above 0 and at most 1."""
    if (
        not isinstance(share, int | float | np.integer | np.floating)
        or isinstance(share, bool)
        or not 0 < share <= 1
    ):
        raise ValueError(f"{name} must be above 0 and at most 1, given {share!r}.")
