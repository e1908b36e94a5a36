"""Sampling parameters: defaults, ranges, and their form in a config or as arguments of a compiled program.

Each class is a pytree: its numbers are traced, so that programs serve all values; fields that determine
shapes or loops are static.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from flax import struct

from muse_jax.sampling.masked import ORDERS


def static(default: Any) -> Any:
    """Static field, for which programs are compiled."""
    return struct.field(pytree_node=False, default=default)


class SamplingParams:
    """Base of the sampling parameters of a network; subclasses are `flax.struct.dataclass`es."""

    renamed: ClassVar[Mapping[str, str | None]] = {}
    """Names in files of earlier versions -> names now; None: no longer a parameter."""

    def check(self) -> None:
        """Raises ValueError if a value is out of range."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the parameters."""
        return tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Self:
        """The parameters of a config's section; those that it lacks have their defaults.

        Raises:
          ValueError: a key is unknown, or a value is out of range.
        """
        values = {}
        for key, value in given.items():
            name = cls.renamed.get(key, key)
            if name is not None:
                values[name] = tuple(value) if isinstance(value, list) else value
        if unknown := sorted(set(values) - set(cls.names())):
            raise ValueError(
                f"sampling has the unknown key {unknown[0]!r}: it may have {sorted(cls.names())}."
            )
        params = cls(**values)
        params.check()
        return params

    def to_dict(self) -> dict[str, Any]:
        """Mapping for `from_mapping`."""
        return {name: getattr(self, name) for name in self.names()}

    def override(self, **given: Any) -> Self:
        """These parameters with other values.

        Raises:
          ValueError: a value is out of range.
        """
        params = dataclasses.replace(self, **given)  # type: ignore[type-var]
        params.check()
        return params

    def traced(self) -> Self:
        """Parameters for a compiled program, with numbers of one type: a Python int would compile another."""
        numbers = {
            field.name: np.float32(getattr(self, field.name))
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if field.metadata.get("pytree_node", True)
        }
        return dataclasses.replace(self, **numbers)  # type: ignore[type-var]


@struct.dataclass
class MaskedSampling(SamplingParams):
    """Parallel decoding of masked tokens; see `muse_jax.sampling.masked_decode`.

    num_steps: passes of the network, at least 1.
    guidance_scale: strength of classifier-free guidance, 0 or greater.
    temperature: of the draw of a token, 0 or greater; 0 takes the most probable one.
    choice_temperature: of the noise on which tokens are kept first, 0 or greater; for "confidence" only.
    order: "confidence" or "halton".
    """

    num_steps: int = static(12)
    guidance_scale: float = 3.0
    temperature: float = 1.0
    choice_temperature: float = 4.5
    order: str = static("confidence")

    def check(self) -> None:
        check_steps("num_steps", self.num_steps)
        for name in ("guidance_scale", "temperature", "choice_temperature"):
            check_not_negative(name, getattr(self, name))
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, given {self.order!r}.")


@struct.dataclass
class TokenSampling(SamplingParams):
    """Draws of single tokens from their logits; see `muse_jax.sampling.Sampling`.

    temperature: 0 or greater; 0 takes the most probable token.
    top_k: keep the k most probable codes; 0: all.
    top_p: keep the fewest codes of this probability, above 0 and at most 1; 1: all.
    top_clusters: draw one of the k most probable clusters of codes, then a code of it; 0: no clusters.
    inner_temperature: of the draw of a code inside its cluster, 0 or greater.
    """

    temperature: float = 1.0
    top_k: int = static(0)
    top_p: float = 1.0
    top_clusters: int = static(0)
    inner_temperature: float = 1.0

    def check(self) -> None:
        for name in ("temperature", "inner_temperature"):
            check_not_negative(name, getattr(self, name))
        for name in ("top_k", "top_clusters"):
            check_whole(name, getattr(self, name), 0)
        check_fraction("top_p", self.top_p)


@struct.dataclass
class LoparSampling(SamplingParams):
    """Local parallel redrawing of tokens; see `muse_jax.sampling.lopar_decode`.

    temperature: 0 or greater.
    top_k: number of codes to keep in each iteration, at least 1; (): those of the published program for six
      iterations, and a similar rule for other numbers of iterations (`lopar_decode`).
    """

    temperature: float = 1.0
    top_k: tuple[int, ...] = static(())

    def check(self) -> None:
        check_not_negative("temperature", self.temperature)
        for size in self.top_k:
            check_steps("top_k of each iteration", size)


def check_steps(name: str, value: Any) -> None:
    """Checks that a value is a whole number of at least 1."""
    check_whole(name, value, 1)


def check_whole(name: str, value: Any, least: int) -> None:
    """Checks that a value is a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, given {value!r}.")


def check_not_negative(name: str, value: Any) -> None:
    """Checks that a value is a finite number of at least 0."""
    if not _is_number(value) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a number of 0 or greater, given {value!r}.")


def check_fraction(name: str, value: Any) -> None:
    """Checks that a value is a number above 0 and at most 1."""
    if not _is_number(value) or not 0 < value <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, given {value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
