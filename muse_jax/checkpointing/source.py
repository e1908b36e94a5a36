"""Sources of weights: a packaged checkpoint, a pretrained directory, or the workdir of a training run.

`open_source` opens any of them by name. A source provides its networks and tokenizers with their weights,
which are read when they are first used.
"""

import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from muse_jax.checkpointing import pretrained
from muse_jax.checkpointing.run import restore_params
from muse_jax.checkpointing.run_config import config_file, load_config
from muse_jax.checkpointing.safetensors import read_weights
from muse_jax.interop.content_hash import content_hash
from muse_jax.nn.shapes import parameter_shapes
from muse_jax.system import Stage, System, find_system


@dataclass(frozen=True, eq=False)
class Weights:
    """A module and its parameters, which are read when they are first used."""

    module: Any
    read: Callable[[], Any]

    @cached_property
    def params(self) -> Any:
        """Tree of numpy arrays."""
        return self.read()

    @cached_property
    def encoder_hash(self) -> str:
        """Hash of what makes a tokenizer's latents: all fields and weights but the decoder's."""
        decoder_only = getattr(self.module, "decoder_only", ())
        fields = pretrained.fields_of(self.module)
        fields = {name: value for name, value in fields.items() if name not in decoder_only}
        encoding = {name: self.params[name] for name in self.params if name != "decoder"}
        return hashlib.sha256(f"{sorted(fields.items())} {content_hash(encoding)}".encode()).hexdigest()


class Source(Protocol):
    """Source of networks with their weights.

    name: name or path that it was opened by.
    system: system of its stages.
    stages: names of the available stages.
    abstract: whether parameters are only shapes.
    """

    name: str
    system: System
    abstract: bool

    @property
    def stages(self) -> tuple[str, ...]: ...

    def network(self, stage: str, dtype: Any = None) -> Weights:
        """Network of a stage, computing in `dtype`; None: float32, or the type that a run was trained in."""

    def sampling(self, stage: str) -> Any:
        """Sampling parameters of a stage, a `SamplingParams`."""

    def tokenizer(self, key: str = "tokenizer", dtype: Any = None) -> Weights:
        """Tokenizer that the config key `key` names in a run of this system, in float32 by default."""

    def option(self, key: str) -> Any:
        """Value of another key of the config, such as "text_encoder"."""

    def file(self, name: str) -> Path:
        """Path of a further file, such as a sentencepiece model; it may be missing."""


def open_source(name: str | Path, key: str = "") -> Source:
    """Opens a packaged checkpoint, a pretrained directory or a run's workdir.

    Args:
      name: name or path.
      key: config key or flag that contains the name, for the message.

    Raises:
      ValueError: it is none of them.
    """
    packaged = str(name) in pretrained.packaged_names()
    if name and not packaged and config_file(name) is not None:
        return RunSource(name)
    if packaged or (name and (Path(name) / pretrained.CONFIG).is_file()):
        return PretrainedSource(name)
    if not key:
        pretrained.pretrained_directory(name)  # raises the error
    raise ValueError(
        f"{key} is {str(name)!r}, which is not a run or a checkpoint: give the workdir of a run, a directory "
        f"from save_pretrained, or one of {', '.join(pretrained.packaged_names())}."
    )


class PretrainedSource:
    """Packaged checkpoint or directory written by `save_pretrained`."""

    abstract = False

    def __init__(self, name: str | Path):
        self.name = str(name)
        self.directory = pretrained.pretrained_directory(name)
        self.system, self.config = pretrained.read_config(self.directory)

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(name for name in self.system.stages if self.config.get(name) is not None)

    def network(self, stage: str, dtype: Any = None) -> Weights:
        self._check(stage)
        spec = self.system.stages[stage]
        return self._weights(stage, spec.network, self.config[stage]["network"], spec.file, dtype, spec.own)

    def sampling(self, stage: str) -> Any:
        self._check(stage)
        return self.system.stages[stage].sampling.from_mapping(self.config[stage]["sampling"])

    def tokenizer(self, key: str = "tokenizer", dtype: Any = None) -> Weights:
        for name, spec in self.system.stages.items():
            if spec.is_tokenizer:
                return self.network(name, dtype)
        having = [name for name, stage in self.system.stages.items() if stage.tokenizer_file]
        if not having:
            raise ValueError(f"The checkpoint {self.name} has no tokenizer: give one that does.")
        stage = next((name for name in having if self.system.stages[name].tokenizer == key), having[0])
        self._check(stage)
        fields = dict(self.config[stage]["tokenizer"])
        kind = tokenizer_class(fields.pop("class", "VQGAN"))
        return self._weights(stage, kind, fields, self.system.stages[stage].tokenizer_file, dtype)

    def option(self, key: str) -> Any:
        return self.config[key]

    def file(self, name: str) -> Path:
        return self.directory / name

    def _check(self, stage: str) -> None:
        if self.config.get(stage) is None:
            raise ValueError(f"The checkpoint {self.name} has no {stage} stage: give one that does.")

    def _weights(
        self,
        stage: str,
        kind: type,
        fields: Mapping[str, Any],
        file: str,
        dtype: Any,
        own: Callable[[Any], Any] = lambda params: params,
    ) -> Weights:
        dtype, where = dtype or jnp.float32, self.directory / pretrained.CONFIG
        module = pretrained.module_from(kind, fields, where, dtype)
        try:
            shapes = own(parameter_shapes(module))
        except (ValueError, TypeError, IndexError) as error:
            raise ValueError(f"The {stage} networks of {where} cannot be built: {error}") from error
        return Weights(module, lambda: read_weights(self.directory / f"{file}.safetensors", shapes, dtype))


class RunSource:
    """Workdir of a training run, which provides the averaged weights."""

    abstract = False

    def __init__(self, workdir: str | Path, config: Any = None):
        self.name = str(workdir)
        self.config = load_config(workdir) if config is None else config
        self.system = find_system(self.config.system)

    @property
    def stages(self) -> tuple[str, ...]:
        return (self.system.stage_of(self.config.task),)

    def trained_params(self) -> Any:
        """Averaged parameters of the run, in the structure of its task."""
        return restore_params(self.name)

    def network(self, stage: str, dtype: Any = None) -> Weights:
        spec = self._stage(stage)
        fields = dict(self.config.model)
        trained_in = fields.pop("dtype", jnp.float32)
        # A tokenizer computes in float32 by default, even if it was trained in another type.
        dtype_now = dtype or (jnp.float32 if spec.is_tokenizer else trained_in)
        module = pretrained.module_from(spec.network, fields, Path(self.name), dtype_now)
        return Weights(module, lambda: _cast(spec.from_run(self), dtype))

    def sampling(self, stage: str) -> Any:
        return self._stage(stage).sampling.from_mapping(self.config.sampling)

    def tokenizer(self, key: str = "tokenizer", dtype: Any = None) -> Weights:
        stage = self.stages[0]
        if self.system.stages[stage].is_tokenizer:
            return self.network(stage, dtype)
        return open_source(self.config[key], f"config.{key}").tokenizer(key, dtype)

    def option(self, key: str) -> Any:
        return self.config.data[key] if key in self.config.data else self.config[key]

    def file(self, name: str) -> Path:
        key = self.system.files.get(name)
        if key is None:
            return Path(self.name) / name
        given = self.config[key]
        return Path(given) if Path(given).is_file() else open_source(given, f"config.{key}").file(name)

    def _stage(self, name: str) -> Stage:
        if name != self.stages[0]:
            raise ValueError(
                f"{self.name} is a run of the task {self.config.task!r}, not of the stage {name}: give "
                f"the workdir of a run of {' or '.join(self.system.stages[name].tasks)}."
            )
        return self.system.stages[name]


class ConfigSource(RunSource):
    """Source for the network that a config would train, with shapes as parameters."""

    abstract = True

    def __init__(self, config: Any):
        super().__init__("", config)
        self.name = config.task

    def network(self, stage: str, dtype: Any = None) -> Weights:
        module, own = super().network(stage, dtype).module, self.system.stages[stage].own
        return Weights(module, lambda: _shapes(own(parameter_shapes(module)), module.dtype))

    def tokenizer(self, key: str = "tokenizer", dtype: Any = None) -> Weights:
        module = super().tokenizer(key, dtype).module
        return Weights(module, lambda: _shapes(parameter_shapes(module), module.dtype))


def tokenizer_class(name: str) -> type:
    """Class of a tokenizer: a name in `muse_jax.tokenizers`, or the dotted path of another class.

    Raises:
      ValueError: there is no such class.
    """
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module or "muse_jax.tokenizers"), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"There is no tokenizer class {name!r} ({error}): install the package that contains it."
        ) from error


def _cast(params: Any, dtype: Any) -> Any:
    return params if dtype is None else jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def _shapes(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), tree)
