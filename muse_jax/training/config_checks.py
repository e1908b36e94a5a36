"""Checks of a training config's values, before any device work."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from muse_jax.sampling.params import CogLMDecoding, Decoding, LoparDecoding, Settings, TokenDecoding

OPTIMIZERS = ("adamw", "adam", "adafactor", "muon")
DECAYS = ("cosine", "constant")
_MOST = float("inf")
# The least and the greatest value of each number.
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
    "data.superres_factor": (2, _MOST),
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
_TOKENIZERS = ("vqgan", "vqgan_decoder")
_MASKED = ("base", "superres")
_COGVIEW2 = ("coglm", "direct_superres", "iterative_superres")
# The tasks that read each of these keys; all others are read by all tasks.
READ_BY: dict[str, tuple[str, ...]] = {
    "discriminator": _TOKENIZERS,
    "tokenizer": ("vqgan_decoder", *_MASKED, *_COGVIEW2),
    "superres_tokenizer": ("superres",),
    "text_pieces": _COGVIEW2,
    "coglm": ("direct_superres",),
    "decoding": _MASKED,
    "data.features": (*_MASKED, *_COGVIEW2),
    "data.text_features": _MASKED,
    "data.text_encoder": _MASKED,
    "data.superres_factor": ("superres", "direct_superres", "iterative_superres"),
}
# The keys of `sampling` that each task reads are the fields of its settings.
SAMPLING: dict[str, type[Settings]] = {
    "coglm": CogLMDecoding,
    "direct_superres": TokenDecoding,
    "iterative_superres": LoparDecoding,
}
UNREAD_BY_OPTIMIZER = {"adam": ("weight_decay",), "adafactor": ("b2", "eps"), "muon": ("eps",)}


def check_values(config: Mapping[str, Any]) -> None:
    """Refuses values out of their range.

    Args:
      config: complete, as a plain dict.

    Raises:
      ValueError: one sentence, for the first of them.
    """
    one_of("optim.name", config["optim"]["name"], OPTIMIZERS)
    one_of("optim.decay", config["optim"]["decay"], DECAYS)
    one_of("data.text_features", config["data"]["text_features"], ("states", "ids"))
    for name, (low, high) in LIMITS.items():
        value = _value(config, name)
        if not low <= value <= high:
            bound = f"at least {low}" if high == _MOST else f"between {low} and {high}"
            raise ValueError(f"Config key {name!r} is {value}, but it must be {bound}.")
    for section, settings in (("decoding", Decoding), ("sampling", CogLMDecoding)):
        try:
            settings(**config[section])
        except ValueError as error:
            raise ValueError(f"In the config's section {section!r}, {error}") from error
    _check_profile_steps(config["profile_steps"], config["total_steps"])


def check_unread(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuses a value other than the default for a key that the task or the optimizer does not read.

    Raises:
      ValueError: one sentence, for the first of them.
    """
    for name, because in _unread(config["task"], config["optim"]["name"]):
        value, default = _value(config, name), _value(defaults, name)
        if value != default:
            raise ValueError(
                f"Config key {name!r} is {value!r}, but it does nothing with {because}: leave it at "
                f"{default!r}."
            )


def without_unread(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config without the keys that its run did not read.

    Earlier versions accepted any value for them, and had other defaults.
    """
    kept = {key: dict(value) if isinstance(value, Mapping) else value for key, value in config.items()}
    for name, _ in _unread(config.get("task", ""), config.get("optim", {}).get("name", "")):
        section, _, key = name.rpartition(".")
        (kept.get(section, {}) if section else kept).pop(key, None)
    return kept


def _unread(task: str, optimizer: str) -> Iterator[tuple[str, str]]:
    """Each key that is not read, and the choice that it does nothing with."""
    for key in UNREAD_BY_OPTIMIZER.get(optimizer, ()):
        yield f"optim.{key}", f"optim.name={optimizer!r}"
    if task not in (*_TOKENIZERS, *_MASKED, *_COGVIEW2):
        return  # a task of another package's own
    for name, tasks in READ_BY.items():
        if task not in tasks:
            yield name, f"task={task!r}"
    read = {field.name for field in fields(SAMPLING[task])} if task in SAMPLING else set()
    if task == "iterative_superres":
        read.remove("top_k")  # of each turn, which the table of turns says
    for field in fields(CogLMDecoding):
        if field.name not in read:
            yield f"sampling.{field.name}", f"task={task!r}"


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuses a value that is not in `allowed`, naming the nearest that is."""
    if value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(
            f"Config key {name!r} is {value!r}, but it must be one of {', '.join(allowed)}{hint}"
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
