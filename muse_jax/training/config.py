"""What a training config may hold: the defaults, the check of keys and types, and its copy in the workdir."""

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from muse_jax.sampling.params import CogLMDecoding, Decoding
from muse_jax.training.config_checks import check_unread, check_values, one_of, without_unread

TASKS = (
    "vqgan",
    "vqgan_decoder",
    "base",
    "superres",
    "coglm",
    "direct_superres",
    "iterative_superres",
)
# Sections whose keys belong to the task: its networks refuse what they do not know (see also `check_keys`).
OPEN_SECTIONS = ("model", "discriminator", "loss", "evaluators")
# What may not change between the first start and a resume: the shapes or the meaning of the parameters and
# of the optimizer's state hang on it.
FIXED = (
    "task",
    "model",
    "discriminator",
    "tokenizer",
    "superres_tokenizer",
    "text_pieces",
    "coglm",
    "optim.name",
)
FREE = ("dropout", "remat", "dtype")  # of a network: how it is computed, not what it is


def default_config() -> ml_collections.ConfigDict:
    """Every key with its default. A config file starts from this and sets what differs."""
    return ml_collections.ConfigDict(
        {
            "task": "base",
            "model": {},  # the network's fields
            "discriminator": {},
            "loss": {},
            "data": {
                "source": "emoji",
                "split": "train",
                "eval_split": "heldout_pairs",
                "batch_size": 64,
                "image_size": 64,
                "augment": "none",
                "workers": 2,
                "data_dir": "",  # where TFDS data is built; "": its default, for emoji `data`
                "features": "",  # a folder of experiments.prepare_features, in place of images and captions
                "text_features": "states",  # what features hold of captions for a text encoder, or "ids"
                "text_encoder": "minilm",  # or "t5:DIR"; only the tasks over tokens read text
                "superres_factor": 2,  # of superres tasks: sides of the large picture over the small one's
            },
            "optim": {
                "name": "adamw",
                "lr": 3e-4,
                "b1": 0.9,
                "b2": 0.99,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "warmup_steps": 100,
                "decay": "cosine",  # over total_steps to zero, or "constant"
                "grad_clip": 1.0,  # by global norm; 0 leaves gradients as they are
                "ema": 0.999,
                "accumulate": 1,  # equal parts of a batch, one after the other: memory falls, time does not
                "skip_nonfinite": True,  # leave the state alone when a gradient is not finite, and count it
                "rollback_after": 20,  # such steps in a row: back to the last checkpoint; 0: never
                "max_rollbacks": 3,  # then the run ends
            },
            "total_steps": 10_000,
            "time_limit": 0.0,  # seconds from the start to the end, by leaving steps out; 0: none
            "seed": 0,
            "log_every": 50,
            "eval_every": 1000,  # 0: never; likewise preview_every
            "eval_batches": 8,  # at most so many batches of eval_split; 0: all of it
            # Name -> {"type": ..., "every": ..., its own keys}, see muse_jax.evaluation.evaluators; with none,
            # the task's own scores ("loss") every `eval_every` steps.
            "evaluators": {},
            "preview_every": 1000,
            "checkpoint_every": 1000,
            "keep_checkpoints": 2,
            # Devices along each axis (-1: what the others leave), and the slices that data is spread over.
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "slices": 1},
            "init_from": "",  # a workdir or a checkpoint ("emoji") whose weights the run starts from
            "tokenizer": "",  # a VQGAN's workdir, or a checkpoint with one, for tasks over its tokens
            "superres_tokenizer": "",  # likewise, of the large picture
            "text_pieces": "",  # a sentencepiece model, for tasks that read and write text themselves
            "coglm": "",  # a CogLM's workdir: the frozen weights of the direct_superres task
            "compile_cache": "",  # a folder that keeps compiled programs; "": JAX_COMPILATION_CACHE_DIR
            "profile_steps": (),  # (first, last): these steps are traced into workdir/profile
            "watchdog": 600.0,  # seconds after which a step that has not ended is reported; 0: never
            # How previews are drawn, and by default a pipeline made from the run: "decoding" by masked
            # transformers, "sampling" by CogView2's networks, each of which reads some of its keys.
            "decoding": Decoding().to_dict(),
            "sampling": CogLMDecoding().to_dict(),
        }
    )


def check_keys(section: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuses a key of `given` that `allowed` lacks, naming the nearest right one.

    Raises:
      ValueError: one sentence, for the first unknown key.
    """
    allowed = sorted(allowed)
    for key in given:
        if key in allowed:
            continue
        name = f"{section}.{key}" if section else key
        near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.5)
        prefix = f"{section}." if section else ""
        hint = f"did you mean {prefix}{near[0]}?" if near else f"allowed here are {', '.join(allowed)}."
        raise ValueError(f"Unknown config key {name!r}: {hint}")


def _check_type(name: str, value: Any, default: Any) -> None:
    if isinstance(default, bool):
        right = isinstance(value, bool)
    elif isinstance(default, int):
        right = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(default, float):
        right = isinstance(value, int | float) and not isinstance(value, bool)
    elif isinstance(default, tuple):
        right = isinstance(value, list | tuple)  # JSON has lists alone
    else:
        right = isinstance(value, type(default))
    if not right:
        raise ValueError(
            f"Config key {name!r} is {value!r} ({type(value).__name__}), but it must be of type "
            f"{type(default).__name__}, for instance {default!r}."
        )


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
        else:
            _check_type(name, value, defaults[key])
            merged[key] = value
    return merged


def validate_config(config: Mapping[str, Any], tasks: tuple[str, ...] = TASKS) -> ml_collections.ConfigDict:
    """Fills in what `config` leaves out and refuses what it gets wrong, before any device is touched.

    Args:
      config: a ConfigDict or dict as `default_config` lays it out; missing keys get their defaults. Those
        in `model`, `discriminator` and `loss` are the task's to check.
      tasks: the names that `config.task` may take.

    Returns:
      A complete, locked copy.

    Raises:
      ValueError: one sentence, for an unknown key (with the nearest right one), a wrong type or value, or a
        value given to a key that the task or the optimizer does not read.
    """
    given = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    full = _merge("", given, default_config().to_dict())
    one_of("task", full["task"], tasks)
    check_values(full)
    check_unread(full, default_config().to_dict())
    return ml_collections.ConfigDict(full).lock()


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as JSON gives it back (tuples become lists), so that copies compare equal."""
    given = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    return json.loads(json.dumps(given))


def load_config(workdir: str | Path) -> ml_collections.ConfigDict:
    """The config that a run wrote into its workdir, without the keys that it did not read.

    Raises:
      ValueError: if there is none, or that of a pipeline's checkpoint.
    """
    path = Path(workdir) / "config.json"
    try:
        stored = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{workdir} is not a run's workdir: {path} cannot be read ({error}).") from error
    if "format" in stored:
        raise ValueError(
            f"{workdir} holds a pipeline's checkpoint, not a run: take another directory as the workdir."
        )
    return ml_collections.ConfigDict(without_unread(stored))


def save_config(workdir: str | Path, config: Mapping[str, Any]) -> None:
    """Writes `config` to workdir/config.json through a temporary name: a crash leaves no half file."""
    path = Path(workdir) / "config.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(_plain(config), indent=1) + "\n")
    temporary.replace(path)


def check_same_run(workdir: str | Path, config: Mapping[str, Any]) -> None:
    """Refuses to go on in a workdir whose run had another task, model or optimizer.

    Raises:
      ValueError: one sentence that names the first difference.
    """
    if not (Path(workdir) / "config.json").exists():
        return
    # A key that came with a later version counts as its default.
    old, new = ({**_plain(default_config()), **_plain(each)} for each in (load_config(workdir), config))
    for name in FIXED:
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
                "take another --workdir or the config of that run."
            )
