"""Pretrained directories: checkpoints written by `save_pretrained` or included in the package.

config.json                  format, system, and a section for each stage: network, tokenizer, sampling
FILE.safetensors             weights of a network or tokenizer; the stages of the system define the names
README.md                    model card (optional)
further files of the system  for example a sentencepiece model
"""

import dataclasses
import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from muse_jax.checkpointing.safetensors import weights_to_bytes
from muse_jax.system import Stage, System, find_system

FORMAT = 2
_READ = (1, FORMAT)
CONFIG = "config.json"
_PACKAGED = Path(__file__).parents[1] / "checkpoints"
# Fields that determine how a network is trained or run are not stored.
_NOT_STORED = {"parent", "name", "dropout", "remat", "dtype"}


def packaged_names() -> list[str]:
    """Names of the checkpoints in the package."""
    return sorted(path.parent.name for path in _PACKAGED.glob(f"*/{CONFIG}"))


def is_pretrained(name: str | Path) -> bool:
    """Whether `name` is a packaged checkpoint or a pretrained directory, rather than a run's workdir."""
    if str(name) in packaged_names():
        return True
    try:
        return "format" in json.loads((Path(name) / CONFIG).read_text())
    except (OSError, ValueError):
        return False


def pretrained_directory(name: str | Path) -> Path:
    """Directory of a packaged checkpoint, or the given pretrained directory.

    Raises:
      ValueError: it is neither.
    """
    if str(name) in packaged_names():
        return _PACKAGED / str(name)
    if (Path(name) / CONFIG).is_file():
        return Path(name)
    what = f"is a directory without {CONFIG}" if Path(name).is_dir() else "is not a directory"
    raise ValueError(
        f"There is no checkpoint {str(name)!r}, which {what}: give a packaged one "
        f"({', '.join(packaged_names()) or 'there is none'}), or a directory written by save_pretrained or "
        "`python -m experiments.export`."
    )


def read_config(directory: Path) -> tuple[System, dict[str, Any]]:
    """System and config of a pretrained directory.

    Raises:
      ValueError: the config is damaged, or has an unknown format or system.
    """
    path = directory / CONFIG
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        version, name = stored["format"], stored.get("system", "muse")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(_damaged(path, error)) from error
    if version not in _READ:
        raise ValueError(
            f"The checkpoint {directory} has format {version!r}, but this muse_jax reads "
            f"{' and '.join(map(str, _READ))}: install the version that wrote it, or export it again."
        )
    try:
        system = find_system(name)
    except ValueError as error:
        raise ValueError(f"The checkpoint {directory} cannot be read: {error}") from error
    try:
        sections = {
            key: _section(stage, stored.get(key) if stage.optional else stored[key])
            for key, stage in system.stages.items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(_damaged(path, error)) from error
    return system, {**stored, **sections}


def _damaged(path: Path, error: Exception) -> str:
    return f"The checkpoint's {path} is damaged ({error!r}): fetch or export it again."


def _section(stage: Stage, stored: Any) -> dict[str, Any] | None:
    """Section of a stage; format 1 calls "sampling" "decoding"."""
    if stored is None and stage.optional:
        return None
    section = {"network": dict(stored["network"])}
    if stage.tokenizer_file:
        section["tokenizer"] = dict(stored["tokenizer"])
    if stage.sampling is not None:
        section["sampling"] = dict(stored["sampling"] if "sampling" in stored else stored["decoding"])
    return section


def fields_of(module: nn.Module) -> dict[str, Any]:
    """Fields of a module in JSON form, for `module_from`."""
    names = [field.name for field in dataclasses.fields(module) if field.name not in _NOT_STORED]
    values = {name: getattr(module, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def module_from(kind: type, fields: Mapping[str, Any], where: Path, dtype: Any = jnp.float32) -> Any:
    """Makes a module of the class `kind` from stored fields, computing in `dtype`.

    Args:
      kind: class of the module.
      fields: from `fields_of`.
      where: file that contains the fields, for the message.
      dtype: type of the computation.

    Raises:
      ValueError: a field is missing or unknown.
    """
    try:
        stored = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        return kind(**stored, dtype=dtype)
    except TypeError as error:
        reason = str(error).partition("__init__() ")[2] or str(error)
        raise ValueError(
            f"{where} does not describe a {kind.__name__} ({reason}): export it again."
        ) from error


def write_pretrained(
    directory: str | Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Any],
    dtype: str,
    files: Mapping[str, bytes] | None = None,
) -> dict[str, int]:
    """Writes a pretrained directory, and returns the size in bytes of each of its files.

    Everything is written under temporary names first, so that a full disk leaves the previous checkpoint
    intact. Then config.json is removed first and replaced last, so that a crash never leaves a readable
    mixture. Files of the previous checkpoint that this one lacks are removed; all other files are kept.

    Args:
      directory: directory to write; created if necessary.
      config: content of config.json besides the format; it names the system.
      weights: stem of a safetensors file -> parameters.
      dtype: type of the stored weights: "float16", "bfloat16" or "float32".
      files: name -> content of further files.

    Raises:
      ValueError: weights overflow `dtype`, or the directory cannot be written to, is a run's workdir, or has
        a config.json that does not belong to a checkpoint.
    """
    directory = Path(directory)
    earlier = _files_of_checkpoint(directory)
    contents = {f"{name}.safetensors": weights_to_bytes(params, dtype) for name, params in weights.items()}
    contents |= files or {}
    contents[CONFIG] = (json.dumps({"format": FORMAT, **config}, indent=1) + "\n").encode()
    staged = {name: directory / f".{name}.{os.getpid()}.tmp" for name in contents}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, path in staged.items():
            with path.open("wb") as file:
                file.write(contents[name])
                file.flush()
                os.fsync(file.fileno())
        (directory / CONFIG).unlink(missing_ok=True)
        for name in earlier - set(contents):
            (directory / name).unlink(missing_ok=True)
        for name, path in staged.items():  # config.json is the last
            path.replace(directory / name)
    except OSError as error:
        reason = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some space" if full else "give one that you may write to"
        raise ValueError(f"The checkpoint cannot be written to {directory} ({reason}): {hint}.") from error
    finally:
        for path in staged.values():
            if directory.is_dir():
                path.unlink(missing_ok=True)
    return {name: len(content) for name, content in contents.items()}


def _files_of_checkpoint(directory: Path) -> set[str]:
    """Names that files of the checkpoint in `directory` may have; empty if there is no checkpoint.

    Raises:
      ValueError: the directory is a run's workdir, or its config.json does not belong to a checkpoint.
    """
    path = directory / CONFIG
    if (directory / "train_config.json").is_file():
        raise ValueError(f"{directory} is the workdir of a run: give another directory for the checkpoint.")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): remove it, or give another directory for the checkpoint."
        ) from error
    if "format" not in stored:
        what = "is the workdir of a run" if "task" in stored else f"has a {CONFIG} that is not a checkpoint's"
        raise ValueError(f"{directory} {what}: give another directory for the checkpoint.")
    try:
        return find_system(stored.get("system", "muse")).file_names
    except ValueError:
        return set()
