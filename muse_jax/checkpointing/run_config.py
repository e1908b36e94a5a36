"""The config in the workdir of a run, with upgrades of configs of earlier versions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from muse_jax.system import find_task

FILE = "train_config.json"
EARLIER_FILE = "config.json"
"""Name of the config in runs of earlier versions, and in pretrained directories."""
HASHES_FILE = "tokenizer_hashes.json"

# Runs of earlier versions do not name their system, and contain keys that only other tasks read.
_SYSTEM_OF = {
    "vqgan": "vqgan",
    "vqgan_decoder": "vqgan",
    "base": "muse",
    "superres": "muse",
    "coglm": "cogview2",
    "direct_superres": "cogview2",
    "iterative_superres": "cogview2",
}
_OF_TASKS = ("discriminator", "tokenizer", "superres_tokenizer", "text_pieces", "coglm", "sampling")
_UNREAD_BY_OPTIMIZER = {"adam": ("weight_decay",), "adafactor": ("b2", "eps"), "muon": ("eps",)}
_OF_TASKS_IN_DATA = ("features", "text_features", "text_encoder", "superres_factor")


def config_file(workdir: str | Path) -> Path | None:
    """File with a run's config; None if `workdir` is not the workdir of a run."""
    current, earlier = Path(workdir) / FILE, Path(workdir) / EARLIER_FILE
    if current.is_file():
        return current
    try:
        return earlier if "task" in json.loads(earlier.read_text()) else None
    except (OSError, ValueError, TypeError):
        return None


def load_config(workdir: str | Path) -> ml_collections.ConfigDict:
    """Config of the run in `workdir`.

    Raises:
      ValueError: there is no run, or its config cannot be read.
    """
    path = config_file(workdir)
    if path is None:
        raise ValueError(f"{workdir} is not a run's workdir: it has no {FILE}.")
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{workdir} is not a run's workdir: {path} cannot be read ({error}).") from error
    return ml_collections.ConfigDict(stored if "system" in stored else _upgrade(stored))


def save_config(workdir: str | Path, config: Mapping[str, Any]) -> None:
    """Writes `config` into the workdir."""
    _write(Path(workdir) / FILE, plain(config))


def load_tokenizer_hashes(workdir: str | Path) -> dict[str, str]:
    """The hashes that `save_tokenizer_hashes` wrote; none in runs of earlier versions."""
    path = Path(workdir) / HASHES_FILE
    return json.loads(path.read_text()) if path.is_file() else {}


def save_tokenizer_hashes(workdir: str | Path, hashes: Mapping[str, str]) -> None:
    """Writes the hash of each tokenizer's content, by the config key that names the tokenizer."""
    _write(Path(workdir) / HASHES_FILE, hashes)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON under a temporary name first, so that a crash leaves no incomplete file."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Config after a round trip through JSON (tuples become lists), so that copies compare equal."""
    given = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    return json.loads(json.dumps(given))


def _upgrade(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the system to a config of an earlier version, and drops keys that its task does not read."""
    config = {**stored, "system": _SYSTEM_OF.get(stored["task"], "")}
    if config["system"] == "muse":
        config["sampling"] = config.get("decoding", {})
    config.pop("decoding", None)
    task = find_task(config["system"], config["task"])
    own: Mapping[str, Any] = task.config_defaults  # type: ignore[attr-defined]
    for key in set(_OF_TASKS) - set(own):
        config.pop(key, None)
    data = dict(config.get("data", {}))
    for key in set(_OF_TASKS_IN_DATA) - set(own.get("data", {})):
        data.pop(key, None)
    config["data"] = data
    if "sampling" in own:
        section = config.get("sampling", {})
        names = {**{name: name for name in own["sampling"]}, **task.sampling_params.renamed}  # type: ignore[attr-defined]
        kept = {names[key]: value for key, value in section.items() if names.get(key)}
        config["sampling"] = kept
    optim = dict(config.get("optim", {}))
    for key in _UNREAD_BY_OPTIMIZER.get(optim.get("name", ""), ()):
        optim.pop(key, None)
    return {**config, "optim": optim}
