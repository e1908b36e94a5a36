"""The directory that holds a pipeline: config.json, one safetensors file a network, and what else it reads.

Of Muse:
config.json                  format; text encoder; a stage's network, tokenizer and decoding defaults
base.safetensors             the base transformer
vqgan.safetensors            the tokenizer of its tokens
superres.safetensors         the super-resolution transformer     } where there is
vqgan_superres.safetensors   the tokenizer of its tokens          } a second stage

Of CogView2, whose stages share one tokenizer:
config.json                  system and format; a stage's network and decoding defaults; the tokenizer
coglm.safetensors            CogLM
vqgan.safetensors            the tokenizer
direct.safetensors           of direct super-resolution what it does not share with CogLM   } where there are
iterative.safetensors        iterative super-resolution                                     } such stages
text.model                   the sentencepiece model
clusters.npz                 clusters of the tokenizer's codes, where there are
"""

import dataclasses
import errno
import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from muse_jax.checkpointing.safetensors import read_weights, weights_to_bytes
from muse_jax.interop.name_table import abstract_params
from muse_jax.systems.cogview2.coglm import CogLMBase
from muse_jax.systems.cogview2.superres import IterativeSuperRes
from muse_jax.systems.muse.superres_transformer import SuperResTransformer
from muse_jax.tokenizers import VQGAN

FORMAT = 1
CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class System:
    """What the checkpoints of a system hold.

    sections: those of config.json, and the keys that each must have.
    optional: the sections that may be null.
    files: of each stage and its parts ("network", "tokenizer") the safetensors file.
    others: files that are no weights.
    """

    sections: Mapping[str, tuple[str, ...]]
    optional: tuple[str, ...]
    files: Mapping[str, Mapping[str, str]]
    others: tuple[str, ...] = ()

    @property
    def file_names(self) -> set[str]:
        """Every file that may be there beside config.json."""
        weights = {f"{file}.safetensors" for parts in self.files.values() for file in parts.values()}
        return weights | set(self.others)


_WHOLE_STAGE = ("network", "tokenizer", "decoding")
SYSTEMS = {
    "muse": System(
        sections={"text_encoder": ("name", "max_length"), "base": _WHOLE_STAGE, "superres": _WHOLE_STAGE},
        optional=("superres",),
        files={
            "base": {"network": "base", "tokenizer": "vqgan"},
            "superres": {"network": "superres", "tokenizer": "vqgan_superres"},
        },
    ),
    "cogview2": System(
        sections={
            "coarse": _WHOLE_STAGE,
            "direct": ("network", "decoding"),
            "iterative": ("network", "decoding"),
        },
        optional=("direct", "iterative"),
        files={
            "coarse": {"network": "coglm", "tokenizer": "vqgan"},
            "direct": {"network": "direct"},
            "iterative": {"network": "iterative"},
        },
        others=("text.model", "clusters.npz"),
    ),
}
"""By the name that config.json has under "system"; without one it is Muse's."""

_PACKAGED = Path(__file__).parents[1] / "checkpoints"
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


def read_config(directory: Path, system: str | None = None) -> dict[str, Any]:
    """The config of a checkpoint; its key "system" says of what.

    Args:
      system: what it must be of; None for any.

    Raises:
      ValueError: one sentence, for a file that is damaged or of another format or system.
    """
    path = directory / CONFIG
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        version, name = stored["format"], stored.get("system", "muse")
        known = SYSTEMS.get(name)
        config: dict[str, Any] = {"system": name}
        if known is not None:
            config |= {section: _section(known, section, stored[section]) for section in known.sections}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"The checkpoint's {path} is damaged ({error!r}): fetch or export it again."
        ) from error
    if version != FORMAT or known is None:
        what = f"format {version!r}" if version != FORMAT else f"the system {name!r}"
        reads = FORMAT if version != FORMAT else ", ".join(SYSTEMS)
        raise ValueError(
            f"The checkpoint {directory} has {what}, but this muse_jax reads {reads}: install "
            "the version that wrote it, or export it again."
        )
    if system not in (None, name):
        raise ValueError(
            f"The checkpoint {directory} is of {name}, not of {system}: load it with "
            "muse_jax.load_pipeline, or take another."
        )
    return config


def _section(system: System, section: str, stored: Any) -> dict[str, Any] | None:
    """A section as it must be; one of a stage has mappings alone."""
    if stored is None and section in system.optional:
        return None
    of = dict if section in system.files else lambda value: value
    return {key: of(stored[key]) for key in system.sections[section]}


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


def read_part(
    directory: Path,
    config: Mapping[str, Any],
    stage: str,
    part: str,
    kind: type,
    dtype: Any = jnp.float32,
    stored: Callable[[dict[str, Any]], Any] = lambda params: params,
) -> tuple[Any, dict[str, Any]]:
    """The module and weights of a stage's "network" or "tokenizer", in the type `dtype`.

    `stored` picks out of the module's parameters those that its file holds.

    Raises:
      ValueError: one sentence, for fields or weights that do not make a `kind`.
    """
    module = module_from(kind, config[stage][part], directory, dtype)
    try:
        shapes = stored(parameter_shapes(module))
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"The {stage} networks of {directory / CONFIG} cannot be built: {error}") from error
    file = SYSTEMS[config["system"]].files[stage][part]
    return module, read_weights(directory / f"{file}.safetensors", shapes, dtype)


@functools.lru_cache(maxsize=16)
def parameter_shapes(module: Any) -> dict[str, Any]:
    """The tree of shapes of a network's or tokenizer's parameters."""
    return abstract_params(module, *_example_inputs(module))


@functools.lru_cache(maxsize=16)
def boxed_shapes(module: Any) -> Any:
    """`parameter_shapes` under the logical names of their axes."""
    return jax.eval_shape(module.init, jax.random.key(0), *_example_inputs(module))["params"]


def _example_inputs(module: Any) -> tuple[Any, ...]:
    if isinstance(module, VQGAN):
        return (jnp.zeros((1, module.downsampling, module.downsampling, 3)),)
    if isinstance(module, IterativeSuperRes):
        text = jnp.zeros((1, module.text_length), jnp.int32)
        return jnp.zeros((1, module.image_tokens), jnp.int32), text, text > 0
    if isinstance(module, CogLMBase):
        tokens = jnp.zeros((1, module.length), jnp.int32)
        return tokens, tokens
    counts = [module.num_tokens] + (
        [module.num_low_tokens] if isinstance(module, SuperResTransformer) else []
    )
    sequences = [jnp.zeros((1, count), jnp.int32) for count in counts]
    return *sequences, jnp.zeros((1, 2, module.text_dim)), jnp.ones((1, 2), bool)


def write_checkpoint(
    directory: str | Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Any],
    dtype: str,
    others: Mapping[str, bytes] | None = None,
) -> dict[str, int]:
    """Writes a checkpoint, and returns the bytes of each of its files.

    `weights` are parameters by the names of `System.files`, `others` the contents of further files. Files of
    a checkpoint that was there before and that this one lacks are removed; any other file stays.

    Everything is written under other names first, so that a full disk leaves the checkpoint that was there;
    config.json goes first and comes back last, so that a crash never leaves a mixture that can be read.

    Raises:
      ValueError: one sentence, for weights that `dtype` cannot hold, for a directory that cannot be written
        to, and for a run's workdir or any other directory whose config.json is not a checkpoint's.
    """
    directory = Path(directory)
    earlier = _files_of_checkpoint(directory)
    contents = {f"{name}.safetensors": weights_to_bytes(params, dtype) for name, params in weights.items()}
    contents |= others or {}
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
        for name in earlier - set(contents):
            (directory / name).unlink(missing_ok=True)
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


def _files_of_checkpoint(directory: Path) -> set[str]:
    """The names that files of the checkpoint in `directory` may have; none where there is no checkpoint.

    Raises:
      ValueError: one sentence, if its config.json is a run's or of something else.
    """
    path = directory / CONFIG
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): remove it, or give another directory for the checkpoint."
        ) from error
    if "format" not in stored:
        what = "is the workdir of a run" if "task" in stored else f"holds a {CONFIG} of something else"
        raise ValueError(f"{directory} {what}: give another directory for the checkpoint.")
    system = SYSTEMS.get(stored.get("system", "muse"))
    return system.file_names if system else set()
