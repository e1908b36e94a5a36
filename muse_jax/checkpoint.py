"""The directory that holds a Muse pipeline: config.json and one safetensors file a network.

config.json                  format; text encoder; a stage's network, tokenizer and decoding defaults
base.safetensors             the base transformer
vqgan.safetensors            the tokenizer of its tokens
superres.safetensors         the super-resolution transformer     } where there is
vqgan_superres.safetensors   the tokenizer of its tokens          } a second stage
"""

import dataclasses
import errno
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from muse_jax.interop.name_table import abstract_params
from muse_jax.networks import SuperResTransformer
from muse_jax.tokenizers import VQGAN
from muse_jax.weights import weights_to_bytes

FORMAT = 1
CONFIG = "config.json"
FILES = {"base": ("base", "vqgan"), "superres": ("superres", "vqgan_superres")}
"""Of each stage, the files of its network and of its tokenizer."""

_PACKAGED = Path(__file__).parent / "checkpoints"
# Of training, or of the machine at hand: no part of what a network is.
_NOT_STORED = {"parent", "name", "dropout", "remat", "dtype"}


def packaged_names() -> list[str]:
    """The checkpoints that come with the package."""
    return sorted(path.parent.name for path in _PACKAGED.glob(f"*/{CONFIG}"))


def find_checkpoint(name: str | Path) -> Path:
    """The directory of a packaged checkpoint, or the given directory.

    Raises:
      ValueError: one sentence, if it is neither.
    """
    if str(name) in packaged_names():
        return _PACKAGED / str(name)
    if (Path(name) / CONFIG).is_file():
        return Path(name)
    what = f"is a directory without {CONFIG}" if Path(name).is_dir() else "is no directory"
    raise ValueError(
        f"There is no checkpoint {str(name)!r}, which {what}: give a packaged one "
        f"({', '.join(packaged_names()) or 'there is none'}), or a directory written by save_pretrained or "
        "`python -m experiments.export`."
    )


def read_config(directory: Path) -> dict[str, Any]:
    """The config of a checkpoint.

    Raises:
      ValueError: one sentence, for a file that is damaged or of another format.
    """
    path = directory / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config["format"]
        config["text_encoder"] = {key: config["text_encoder"][key] for key in ("name", "max_length")}
        for stage in FILES:
            if config[stage] is not None or stage == "base":
                config[stage] = {
                    key: dict(config[stage][key]) for key in ("network", "tokenizer", "decoding")
                }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"The checkpoint's {path} is damaged ({error!r}): fetch or export it again."
        ) from error
    if version != FORMAT:
        raise ValueError(
            f"The checkpoint {directory} has format {version!r}, but this muse_jax reads {FORMAT}: install "
            " the version that wrote it, or export it again."
        )
    return config


def fields_of(module: nn.Module) -> dict[str, Any]:
    """What `module_from` rebuilds the module from; JSON can hold it."""
    names = [field.name for field in dataclasses.fields(module) if field.name not in _NOT_STORED]  # type: ignore[arg-type]
    values = {name: getattr(module, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def module_from(kind: type, fields: Mapping[str, Any], where: Path, dtype: Any = jnp.float32) -> Any:
    """The module `kind` with the stored `fields`, to compute in `dtype`.

    Raises:
      ValueError: one sentence, for fields that it does not have or lacks.
    """
    try:
        stored = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        return kind(**stored, dtype=dtype)
    except TypeError as error:
        reason = str(error).partition("__init__() ")[2] or str(error)
        raise ValueError(
            f"The checkpoint's {where / CONFIG} does not describe a {kind.__name__} ({reason}): "
            "export it again."
        ) from error


@functools.lru_cache(maxsize=16)
def parameter_shapes(module: Any) -> dict[str, Any]:
    """The tree of shapes of a network's or tokenizer's parameters."""
    if isinstance(module, VQGAN):
        return abstract_params(module, jnp.zeros((1, module.downsampling, module.downsampling, 3)))
    grids = [module.grid] + ([module.low_grid] if isinstance(module, SuperResTransformer) else [])
    tokens = [jnp.zeros((1, height * width), jnp.int32) for height, width in grids]
    return abstract_params(module, *tokens, jnp.zeros((1, 2, module.text_dim)), jnp.ones((1, 2), bool))


def write_checkpoint(
    directory: str | Path, config: Mapping[str, Any], weights: Mapping[str, Any], dtype: str
) -> dict[str, int]:
    """Writes a checkpoint, and returns the bytes of each of its files.

    Everything is written under other names first, so that a full disk leaves the checkpoint that was there;
    config.json goes first and comes back last, so that a crash never leaves a mixture that can be read.

    Raises:
      ValueError: one sentence, for weights that `dtype` cannot hold and for a directory that cannot be
        written to.
    """
    directory = Path(directory)
    contents = {f"{name}.safetensors": weights_to_bytes(params, dtype) for name, params in weights.items()}
    contents[CONFIG] = (json.dumps(config, indent=1) + "\n").encode()
    staged = {name: directory / f".{name}.{os.getpid()}.tmp" for name in contents}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, path in staged.items():
            with path.open("wb") as file:
                file.write(contents[name])
                file.flush()
                os.fsync(file.fileno())
        (directory / CONFIG).unlink(missing_ok=True)
        for name in (name for files in FILES.values() for name in files if name not in weights):
            (directory / f"{name}.safetensors").unlink(missing_ok=True)
        for name, path in staged.items():  # config.json is the last
            path.replace(directory / name)
    except OSError as error:
        reason = error.strerror or str(error)
        hint = (
            "free some space"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "give one that you may write to"
        )
        raise ValueError(f"The checkpoint cannot be written to {directory} ({reason}): {hint}.") from error
    finally:
        for path in staged.values():
            if directory.is_dir():
                path.unlink(missing_ok=True)
    return {name: len(content) for name, content in contents.items()}
