"""Training configs: defaults, checks of keys and types, and the check against the run in a workdir."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from muse_jax.checkpointing.run_config import config_file, load_config, load_tokenizer_hashes, plain
from muse_jax.config_keys import check_keys, check_type
from muse_jax.system import find_task, system_names
from muse_jax.training.config_checks import check_unread, check_values

# Sections whose keys are defined and checked by the task and its networks.
OPEN_SECTIONS = ("model", "discriminator", "loss", "evaluators", "sampling")
# Shapes or meaning of the parameters and of the optimizer's state depend on these keys, so a resumed run may
# not change them; neither may it change the task's own keys except `data` and `sampling`.
FIXED = ("system", "task", "model", "optim.name")
# Fields of a network that determine how it is computed and may change.
FREE = ("dropout", "remat", "dtype")
_COMMON: dict[str, Any] = {
    "system": "",  # a name in muse_jax.systems, or the dotted path of a module that defines SYSTEM
    "task": "",  # a task of the system
    "model": {},  # fields of the network
    "loss": {},  # weights of the loss terms, defined by the task
    "data": {
        "source": "emoji",
        "split": "train",
        "eval_split": "heldout_pairs",
        "batch_size": 64,
        "image_size": 64,
        "augment": "none",
        "workers": 2,
        "data_dir": "",  # folder of built TFDS data; "": TFDS's default, `data` for emoji and icons
    },
    "optim": {
        "name": "adamw",
        "lr": 3e-4,
        "b1": 0.9,
        "b2": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "warmup_steps": 100,
        "decay": "cosine",  # to zero at total_steps, or "constant"
        "grad_clip": 1.0,  # global norm; 0: no clipping
        "ema": 0.999,
        "accumulate": 1,  # microbatches per batch, which save memory
        "skip_nonfinite": True,  # skip and count updates with non-finite gradients
        "rollback_after": 20,  # consecutive non-finite steps before a rollback; 0: never
        "max_rollbacks": 3,  # number of rollbacks after which the run ends
    },
    "total_steps": 10_000,
    "time_limit": 0.0,  # seconds within which the run ends, by skipping steps; 0: none
    "seed": 0,
    "log_every": 50,
    "eval_every": 1000,  # steps; 0: never
    "eval_batches": 8,  # maximum number of batches of eval_split; 0: all
    # Name -> {"type": ..., "every": ..., its own keys}, see muse_jax.evaluation.evaluators. By default the
    # task's scores ("loss") are evaluated every `eval_every` steps.
    "evaluators": {},
    "preview_every": 1000,  # steps; 0: never
    "checkpoint_every": 1000,
    "keep_checkpoints": 2,
    # Devices along each axis (-1: all remaining ones), and number of slices that the data axis spans.
    "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "slices": 1},
    "init_from": "",  # a workdir or checkpoint ("emoji") with initial weights
    "compile_cache": "",  # folder for compiled programs; "": JAX_COMPILATION_CACHE_DIR
    "profile_steps": (),  # (first, last) step to trace into workdir/profile
    "watchdog": 600.0,  # seconds after which an unfinished step is reported; 0: never
}


def default_config(system: str, task: str) -> ml_collections.ConfigDict:
    """Config with every key that a task's config may have, with its default.

    Raises:
      ValueError: there is no such system, or it has no such task.
    """
    own: Mapping[str, Any] = find_task(system, task).config_defaults  # type: ignore[attr-defined]
    data = {**_COMMON["data"], **own.get("data", {})}
    return ml_collections.ConfigDict({**_COMMON, **own, "system": system, "task": task, "data": data})


def validate_config(config: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Completes a config with the defaults and checks it, before any device work.

    Args:
      config: a ConfigDict or dict with "system" and "task"; missing keys get their defaults. The task checks
        the keys of `model`, `discriminator` and `loss`.

    Returns:
      A complete, locked copy.

    Raises:
      ValueError: a key is unknown (the message suggests the nearest one), a type or value is wrong, or a key
        that the optimizer does not read has another value than its default.
    """
    given = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    if not given.get("system"):
        raise ValueError(
            f"The config names no system: set config.system to one of {', '.join(system_names())}, or to the "
            "dotted path of a module of your own."
        )
    task: Any = find_task(given["system"], given.get("task", ""))
    defaults = default_config(given["system"], given["task"]).to_dict()
    full = _merge("", given, defaults)
    check_values(full)
    check_unread(full, defaults)
    if task.sampling_params is not None:
        try:
            full["sampling"] = task.sampling_params.from_mapping(full["sampling"]).to_dict()
        except ValueError as error:
            raise ValueError(f"In the config's section 'sampling', {error}") from error
    task.check_config(full)
    return ml_collections.ConfigDict(full).lock()


def _merge(section: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    if section not in OPEN_SECTIONS:
        check_keys(section, given, defaults)
    merged = dict(defaults)
    for key, value in given.items():
        name = f"{section}.{key}" if section else key
        if key not in defaults:
            merged[key] = value
        elif isinstance(defaults[key], Mapping):
            if not isinstance(value, Mapping):
                raise ValueError(f"Config key {name!r} is {value!r}, but it must be a section of keys.")
            merged[key] = _merge(name, value, defaults[key])
        elif section == "sampling":
            merged[key] = value  # checked by the class of sampling parameters
        else:
            check_type(name, value, defaults[key])
            merged[key] = value
    return merged


def check_same_run(
    workdir: str | Path, config: Mapping[str, Any], hashes: Mapping[str, str] | None = None
) -> None:
    """Checks that the run in a workdir has the same task, model, optimizer and tokenizers.

    Args:
      workdir: of the run; it may be empty.
      config: complete, from `validate_config`.
      hashes: from `Task.tokenizer_hashes`; they are not compared with runs of earlier versions, which have
        none.

    Raises:
      ValueError: something differs; the message names the first difference.
    """
    if config_file(workdir) is None:
        return
    recorded = load_tokenizer_hashes(workdir)
    for key, content in (hashes or {}).items():
        if recorded.get(key, content) != content:
            raise ValueError(
                f"{workdir} holds a run whose config.{key} had another content than {config[key]!r} has now: "
                "restore that tokenizer, or use another --workdir."
            )
    defaults = plain(default_config(config["system"], config["task"]))
    # A key that came with a later version counts as its default.
    old, new = ({**defaults, **plain(each)} for each in (load_config(workdir), config))
    own: Mapping[str, Any] = find_task(config["system"], config["task"]).config_defaults  # type: ignore[attr-defined]
    for name in (*FIXED, *sorted(set(own) - {"data", "sampling"})):
        before: Any = old
        now: Any = new
        for part in name.split("."):
            before, now = before.get(part, {}), now.get(part, {})
        if isinstance(before, dict) and isinstance(now, dict):
            keys = (before.keys() | now.keys()) - set(FREE)
            changed = sorted(key for key in keys if before.get(key) != now.get(key))
            if not changed:
                continue
            name, before, now = f"{name}.{changed[0]}", before.get(changed[0]), now.get(changed[0])
        if before != now:
            raise ValueError(
                f"{workdir} holds a run with {name} = {before!r}, but this config has {now!r}: "
                "use another --workdir or the config of that run."
            )
