"""Checks of keys, types and names in configs, with suggestions for misspelled ones."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def nearest(name: Any, allowed: Iterable[str]) -> str | None:
    """The allowed name that is most similar to `name`; None if none is similar."""
    return next(iter(difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)), None)


def check_keys(section: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Checks that all keys of a section are allowed.

    Raises:
      ValueError: a key is unknown; the message suggests the nearest one.
    """
    allowed, prefix = sorted(allowed), f"{section}." if section else ""
    for key in given:
        if key not in allowed:
            near = nearest(key, allowed)
            hint = f"did you mean {prefix}{near}?" if near else f"allowed here are {', '.join(allowed)}."
            raise ValueError(f"Unknown config key '{prefix}{key}': {hint}")


def check_type(name: str, value: Any, default: Any) -> None:
    """Checks that a value has the type of its default; an int may replace a float, and a list a tuple.

    Raises:
      ValueError: the value has another type.
    """
    kinds: Any = {float: (int, float), tuple: (list, tuple)}.get(type(default), type(default))
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
        raise ValueError(
            f"Config key {name!r} is {value!r} ({type(value).__name__}), but it must be of type "
            f"{type(default).__name__}, for instance {default!r}."
        )


def complete(section: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A section of a config, completed with its defaults.

    Raises:
      ValueError: a key is unknown, or a value has another type than its default.
    """
    check_keys(section, given, defaults)
    for key, value in given.items():
        check_type(f"{section}.{key}", value, defaults[key])
    return {**defaults, **given}


def one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    """Checks that a value is allowed.

    Raises:
      ValueError: it is not; the message suggests the nearest one.
    """
    allowed = list(allowed)
    if value not in allowed:
        near = nearest(value, allowed)
        hint = f"; did you mean {near!r}?" if near else "."
        raise ValueError(
            f"Config key {name!r} is {value!r}, but it must be one of {', '.join(allowed)}{hint}"
        )
