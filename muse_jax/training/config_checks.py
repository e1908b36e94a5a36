"""Checks of the values of a training config, before any device work."""

from collections.abc import Mapping
from typing import Any

from muse_jax.config_keys import one_of

OPTIMIZERS = ("adamw", "adam", "adafactor", "muon")
DECAYS = ("cosine", "constant")
_MOST = float("inf")
# Smallest and largest value of each number.
LIMITS: dict[str, tuple[float, float]] = {
    "total_steps": (1, _MOST),
    "time_limit": (0, _MOST),
    "seed": (0, 2**32 - 1),
    "log_every": (1, _MOST),
    "eval_every": (0, _MOST),
    "eval_batches": (0, _MOST),
    "preview_every": (0, _MOST),
    "checkpoint_every": (1, _MOST),
    "keep_checkpoints": (1, _MOST),
    "watchdog": (0, _MOST),
    "data.batch_size": (1, _MOST),
    "data.image_size": (1, _MOST),
    "data.workers": (0, _MOST),
    "optim.lr": (0, _MOST),
    "optim.b1": (0, 1),
    "optim.b2": (0, 1),
    "optim.eps": (0, _MOST),
    "optim.weight_decay": (0, _MOST),
    "optim.warmup_steps": (0, _MOST),
    "optim.grad_clip": (0, _MOST),
    "optim.ema": (0, 1),
    "optim.accumulate": (1, _MOST),
    "optim.rollback_after": (0, _MOST),
    "optim.max_rollbacks": (0, _MOST),
    "mesh.slices": (1, _MOST),
}
UNREAD_BY_OPTIMIZER = {"adam": ("weight_decay",), "adafactor": ("b2", "eps"), "muon": ("eps",)}


def check_values(config: Mapping[str, Any]) -> None:
    """Checks the ranges of values.

    Args:
      config: complete, as a plain dict.

    Raises:
      ValueError: a value is out of range.
    """
    one_of("optim.name", config["optim"]["name"], OPTIMIZERS)
    one_of("optim.decay", config["optim"]["decay"], DECAYS)
    check_limits(config, LIMITS)
    _check_profile_steps(config["profile_steps"], config["total_steps"])


def check_limits(config: Mapping[str, Any], limits: Mapping[str, tuple[float, float]]) -> None:
    """Checks numbers against `limits`: config key -> (smallest, largest) value.

    Raises:
      ValueError: a number is out of range.
    """
    for name, (low, high) in limits.items():
        value = _value(config, name)
        if not low <= value <= high:
            bound = f"at least {low}" if high == _MOST else f"between {low} and {high}"
            raise ValueError(f"Config key {name!r} is {value}, but it must be {bound}.")


def check_unread(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Checks that keys which the optimizer does not read have their default values.

    Raises:
      ValueError: a key has another value.
    """
    optimizer = config["optim"]["name"]
    for key in UNREAD_BY_OPTIMIZER.get(optimizer, ()):
        value, default = config["optim"][key], defaults["optim"][key]
        if value != default:
            raise ValueError(
                f"Config key 'optim.{key}' is {value!r}, but it does nothing with optim.name={optimizer!r}: "
                f"leave it at {default!r}."
            )


def _value(config: Mapping[str, Any], name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value[part]
    return value


def _check_profile_steps(steps: tuple[Any, ...], total: int) -> None:
    if not steps:
        return
    whole = all(isinstance(step, int) and not isinstance(step, bool) for step in steps)
    if len(steps) != 2 or not whole or not 1 <= steps[0] <= steps[1] <= total:
        raise ValueError(
            f"Config key 'profile_steps' is {steps!r}, but it must be the first and the last step to trace, "
            f"between 1 and total_steps={total}: --config.profile_steps=10,15, for instance."
        )
