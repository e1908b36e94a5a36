"""What a training config may hold: the defaults, the check of keys and types, and its copy in the workdir."""

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

TASKS = (
    "vqgan",
    "vqgan_decoder",
    "base",
    "superres",
    "coglm",
    "direct_superres",
    "iterative_superres",
)
OPTIMIZERS = ("adamw", "adam", "adafactor", "muon")
DECAYS = ("cosine", "constant")
# Sections whose keys belong to the task: its networks refuse what they do not know (see also `check_keys`).
OPEN_SECTIONS = ("model", "discriminator", "loss")
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
            "decoding": {  # of previews, and the defaults of a pipeline made from the run
                "num_steps": 12,
                "guidance_scale": 3.0,
                "temperature": 1.0,
                "choice_temperature": 4.5,
                "order": "confidence",
            },
            "sampling": {  # the same of networks that draw one token after the other
                "temperature": 1.0,
                "top_k": 0,  # keep so many tokens; 0: all
                "top_p": 1.0,
                "top_clusters": 0,  # draw one of so many clusters of codes, then a code; 0: codes one by one
                "inner_temperature": 1.0,  # divides the logits once more for the draw inside a cluster
                "text_weight": 0.0,  # added to the attention logits of the text
            },
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


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(
            f"Config key {name!r} is {value!r}, but it must be one of {', '.join(allowed)}{hint}"
        )


def validate_config(config: Mapping[str, Any], tasks: tuple[str, ...] = TASKS) -> ml_collections.ConfigDict:
    """Fills in what `config` leaves out and refuses what it gets wrong, before any device is touched.

    Args:
      config: a ConfigDict or dict as `default_config` lays it out; missing keys get their defaults. Those
        in `model`, `discriminator` and `loss` are the task's to check.
      tasks: the names that `config.task` may take.

    Returns:
      A complete, locked copy.

    Raises:
      ValueError: one sentence, for an unknown key (with the nearest right one), a wrong type or value.
    """
    given = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    full = _merge("", given, default_config().to_dict())
    _one_of("task", full["task"], tasks)
    _one_of("optim.name", full["optim"]["name"], OPTIMIZERS)
    _one_of("optim.decay", full["optim"]["decay"], DECAYS)
    optim, data = full["optim"], full["data"]
    _one_of("data.text_features", data["text_features"], ("states", "ids"))
    limits: list[tuple[str, float, float, float]] = [
        ("total_steps", full["total_steps"], 1, float("inf")),
        ("log_every", full["log_every"], 1, float("inf")),
        ("eval_every", full["eval_every"], 0, float("inf")),
        ("eval_batches", full["eval_batches"], 0, float("inf")),
        ("preview_every", full["preview_every"], 0, float("inf")),
        ("checkpoint_every", full["checkpoint_every"], 1, float("inf")),
        ("keep_checkpoints", full["keep_checkpoints"], 1, float("inf")),
        ("seed", full["seed"], 0, 2**32 - 1),
        ("data.batch_size", data["batch_size"], 1, float("inf")),
        ("optim.lr", optim["lr"], 0, float("inf")),
        ("optim.ema", optim["ema"], 0, 1),
        ("optim.b1", optim["b1"], 0, 1),
        ("optim.b2", optim["b2"], 0, 1),
        ("optim.warmup_steps", optim["warmup_steps"], 0, float("inf")),
        ("optim.weight_decay", optim["weight_decay"], 0, float("inf")),
        ("optim.rollback_after", optim["rollback_after"], 0, float("inf")),
        ("optim.max_rollbacks", optim["max_rollbacks"], 0, float("inf")),
        ("watchdog", full["watchdog"], 0, float("inf")),
        ("time_limit", full["time_limit"], 0, float("inf")),
        ("optim.accumulate", optim["accumulate"], 1, float("inf")),
        ("mesh.slices", full["mesh"]["slices"], 1, float("inf")),
        ("optim.grad_clip", optim["grad_clip"], 0, float("inf")),
    ]
    decoding = full["decoding"]
    limits += [
        ("decoding.num_steps", decoding["num_steps"], 1, float("inf")),
        ("decoding.guidance_scale", decoding["guidance_scale"], 0, float("inf")),
        ("decoding.temperature", decoding["temperature"], 0, float("inf")),
        ("sampling.temperature", full["sampling"]["temperature"], 0, float("inf")),
        ("sampling.inner_temperature", full["sampling"]["inner_temperature"], 0, float("inf")),
        ("sampling.top_k", full["sampling"]["top_k"], 0, float("inf")),
        ("sampling.top_p", full["sampling"]["top_p"], 1e-6, 1),
        ("sampling.top_clusters", full["sampling"]["top_clusters"], 0, float("inf")),
        ("decoding.choice_temperature", decoding["choice_temperature"], 0, float("inf")),
    ]
    for name, value, low, high in limits:
        if not low <= value <= high:
            bound = f"at least {low}" if high == float("inf") else f"between {low} and {high}"
            raise ValueError(f"Config key {name!r} is {value}, but it must be {bound}.")
    if optim["name"] == "adam" and optim["weight_decay"]:
        raise ValueError(
            "Config key 'optim.weight_decay' does nothing with optim.name='adam': set it to 0 or use adamw."
        )
    _check_profile_steps(full["profile_steps"], full["total_steps"])
    return ml_collections.ConfigDict(full).lock()


def _check_profile_steps(steps: tuple[Any, ...], total: int) -> None:
    if not steps:
        return
    whole = all(isinstance(step, int) and not isinstance(step, bool) for step in steps)
    if len(steps) != 2 or not whole or not 1 <= steps[0] <= steps[1] <= total:
        raise ValueError(
            f"Config key 'profile_steps' is {steps!r}, but it must be the first and the last step to trace, "
            f"between 1 and total_steps={total}: --config.profile_steps=10,15, for instance."
        )


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as JSON gives it back (tuples become lists), so that copies compare equal."""
    given = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    return json.loads(json.dumps(given))


def load_config(workdir: str | Path) -> ml_collections.ConfigDict:
    """The config that a run wrote into its workdir.

    Raises:
      ValueError: if there is none.
    """
    path = Path(workdir) / "config.json"
    try:
        return ml_collections.ConfigDict(json.loads(path.read_text()))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{workdir} is not a run's workdir: {path} cannot be read ({error}).") from error


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
