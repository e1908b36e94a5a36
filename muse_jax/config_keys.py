"""Checks of the keys and types in sections of a config, with the nearest right name for a wrong one."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def nearest(name: Any, allowed: Iterable[str]) -> str | None:
    """The allowed name that is most like `name`; None if none is."""
    return next(iter(difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)), None)


def check_keys(section: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuses a key of `given` that `allowed` lacks, naming the nearest right one.

    Raises:
      ValueError: the first unknown key.
    """
    allowed, prefix = sorted(allowed), f"{section}." if section else ""
    for key in given:
        if key not in allowed:
            near = nearest(key, allowed)
            hint = f"did you mean {prefix}{near}?" if near else f"allowed here are {', '.join(allowed)}."
            raise ValueError(f"Unknown config key '{prefix}{key}': {hint}")


def check_type(name: str, value: Any, default: Any) -> None:
    """Refuses a value of another type than the default's; an int may stand for a float, a list for a tuple.

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
      ValueError: an unknown key, or a value of another type than its default.
    """
    check_keys(section, given, defaults)
    for key, value in given.items():
        check_type(f"{section}.{key}", value, defaults[key])
    return {**defaults, **given}


def one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    """Refuses a value that is not in `allowed`, naming the nearest that is.

    Raises:
      ValueError: the value is not allowed.
    """
    allowed = list(allowed)
    if value not in allowed:
        near = nearest(value, allowed)
        hint = f"; did you mean {near!r}?" if near else "."
        raise ValueError(
            f"Config key {name!r} is {value!r}, but it must be one of {', '.join(allowed)}{hint}"
        )
