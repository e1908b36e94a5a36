"""Base of the pipelines: loading, saving, placement on a mesh, sampling parameters."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import numpy as np
from einops import reduce
from jax.sharding import Mesh
from jaxtyping import Array, Bool

from muse_jax.checkpointing.pretrained import fields_of, write_pretrained
from muse_jax.checkpointing.source import Source, open_source
from muse_jax.nn.shapes import boxed_shapes
from muse_jax.sampling.params import SamplingParams
from muse_jax.sampling.progress import StepCallback, listening, silent
from muse_jax.sharding.partitioning import (
    on_mesh,
    one_device_mesh,
    put_rows,
    put_tree,
    to_host,
    tree_shardings,
)
from muse_jax.system import System, find_system
from muse_jax.systems.validation import check_seed


@dataclass(frozen=True, eq=False)
class LoadedStage:
    """Network of a pipeline with its weights and sampling parameters.

    network: the Flax module.
    params: the parameters that `Stage.own` selects.
    sampling: default sampling parameters, a `SamplingParams`.
    tokenizer: tokenizer of the latents that it generates; None if it shares that of another stage.
    tokenizer_params: weights of the tokenizer.
    """

    network: Any
    params: Any
    sampling: Any
    tokenizer: Any = None
    tokenizer_params: Any = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images that it generates."""
        height, width = self.network.grid
        return height * self.tokenizer.downsampling, width * self.tokenizer.downsampling

    def to_dict(self) -> dict[str, Any]:
        """Section of this stage in the config of a pretrained directory."""
        section = {"network": fields_of(self.network), "sampling": self.sampling.to_dict()}
        if self.tokenizer is not None:
            kind = type(self.tokenizer)
            own = kind.__module__.startswith("muse_jax.tokenizers")
            name = kind.__name__ if own else f"{kind.__module__}.{kind.__qualname__}"
            section["tokenizer"] = {"class": name, **fields_of(self.tokenizer)}
        return section


@dataclass(frozen=True, eq=False)
class Pipeline:
    """Base of the pipelines; subclasses have a field for each stage of their system.

    Weights are distributed over the mesh by the same rules as in training, and batches are split over its
    data and fsdp axes if their size is divisible. Samples do not depend on the mesh. On a mesh of several
    processes, each process makes the same calls and receives the whole result.

    Attributes:
      system_name: name of the system, see `find_system`.
      mesh: devices to run on (`muse_jax.sharding.partitioning.make_mesh`); None: one device.
    """

    system_name: ClassVar[str]
    mesh: Mesh | None = field(default=None, kw_only=True)

    @classmethod
    def system(cls) -> System:
        """The system of this pipeline."""
        return find_system(cls.system_name)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, mesh: Mesh | None = None, dtype: Any = None, **components: Any
    ) -> Self:
        """Loads a packaged checkpoint, a directory that `save_pretrained` wrote, or the workdir of a run.

        Args:
          name: such as "icons", or a path.
          mesh: devices to run on; None: one device.
          dtype: type of the weights and of the computation; None: float32, or the type that a run was trained
            in.
          components: replacements for parts that are not stages, such as `text_encoder`.

        Raises:
          ValueError: the checkpoint is missing, damaged or of another system, or its weights do not fit.
        """
        source = open_source(name)
        if source.system.pipeline is not cls:
            raise ValueError(
                f"The checkpoint {name} is of the system {source.system.name!r}, not of "
                f"{cls.system_name!r}: load it with muse_jax.load_pipeline, or give another."
            )
        return cls.from_sources(dict.fromkeys(source.stages, source), mesh=mesh, dtype=dtype, **components)

    @classmethod
    def from_sources(
        cls,
        sources: Mapping[str, Source],
        *,
        tokenizers: Mapping[str, str] | None = None,
        mesh: Mesh | None = None,
        dtype: Any = None,
        **components: Any,
    ) -> Self:
        """Makes a pipeline from several sources, for example one training run per stage.

        Args:
          sources: name of a stage -> source.
          tokenizers: config key -> name of the source of a tokenizer that replaces the stage's own, for
            example one with the same codes and a fine-tuned decoder.
          mesh, dtype, components: see `from_pretrained`.

        Raises:
          ValueError: a stage is missing, or stages do not fit together.
        """
        specs, replaced = cls.system().stages, dict(tokenizers or {})
        for name, spec in specs.items():
            if name not in sources and not spec.optional:
                raise ValueError(
                    f"A pipeline of {cls.system_name!r} needs the stage {name}: give a run of "
                    f"{' or '.join(spec.tasks)}."
                )
        stages = {}
        for name in (name for name in specs if name in sources):
            spec, source = specs[name], sources[name]
            network = source.network(name, dtype)
            parts: tuple[Any, ...] = ()
            if spec.tokenizer_file:
                given = replaced.pop(spec.tokenizer, "")
                part = open_source(given, spec.tokenizer) if given else source
                tokenizer = part.tokenizer(spec.tokenizer, dtype)
                parts = (tokenizer.module, tokenizer.params)
            stages[name] = LoadedStage(network.module, network.params, source.sampling(name), *parts)
        if replaced:
            raise ValueError(
                f"The tokenizer {next(iter(replaced))!r} is given, but no stage of this pipeline has it: "
                "omit it."
            )
        return cls(**cls.load_components(sources, stages, dtype, **components), **stages, mesh=mesh)

    @classmethod
    def load_components(
        cls, sources: Mapping[str, Source], stages: Mapping[str, LoadedStage], dtype: Any, **given: Any
    ) -> dict[str, Any]:
        """Loads the parts that are not stages.

        Args:
          sources: name of a stage -> source.
          stages: name of a stage -> loaded stage.
          dtype: type of the weights and of the computation; None: float32.
          given: `components` of `from_pretrained`.

        Returns:
          Name of a field of the pipeline -> value.

        Raises:
          ValueError: the sources were not trained together.
        """
        return {}

    def save_pretrained(self, directory: str | Path, dtype: str = "float16") -> dict[str, int]:
        """Writes a directory that `from_pretrained` reads; other files in it do not change.

        A crash or a full disk leaves either the previous checkpoint or none.

        Args:
          directory: directory to write; created if necessary.
          dtype: type of the stored weights: "float16", "bfloat16" or "float32".

        Returns:
          The size in bytes of each file written.

        Raises:
          ValueError: the directory cannot be written to or is a run's workdir, or weights overflow `dtype`.
        """
        sections = {name: stage.to_dict() for name, stage in self.stages.items()}
        config = {"system": self.system_name, **self.options(), **sections}
        return write_pretrained(directory, config, self.weights(), dtype, self.extra_files())

    def weights(self) -> dict[str, Any]:
        """The weights of a pretrained directory: the stem of a file -> parameters."""
        weights: dict[str, Any] = {}
        for name, stage in self.stages.items():
            spec = self.system().stages[name]
            weights[spec.file] = stage.params
            if stage.tokenizer is not None:
                weights[spec.tokenizer_file] = stage.tokenizer_params
        return weights

    def options(self) -> dict[str, Any]:
        """Entries of a pretrained directory's config besides those of the stages."""
        return {}

    def extra_files(self) -> dict[str, bytes]:
        """Further files of a pretrained directory: name -> content."""
        return {}

    @property
    def stages(self) -> dict[str, LoadedStage]:
        """Available stages by name, in the order in which they run."""
        found = {name: getattr(self, name) for name in self.system().stages}
        return {name: stage for name, stage in found.items() if stage is not None}

    def sampling(self, **given: Any) -> dict[str, SamplingParams]:
        """Sampling parameters of each stage: those of the checkpoint, overridden by `given` values.

        Names are those of parameters of the first stage, or "STAGE_PARAMETER" for other stages. None keeps
        the value of the checkpoint.

        Raises:
          ValueError: a name is unknown or a value is out of range.
        """
        first = next(iter(self.stages))
        known = {
            name if stage == first else f"{stage}_{name}": (stage, name)
            for stage, loaded in self.stages.items()
            for name in loaded.sampling.names()
        }
        changes: dict[str, dict[str, Any]] = {stage: {} for stage in self.stages}
        for key, value in given.items():
            if value is None:
                continue
            if key not in known:
                raise ValueError(
                    f"{key} is {value!r}, but this {type(self).__name__} has no such sampling parameter: it "
                    f"has {', '.join(known)}."
                )
            stage, name = known[key]
            changes[stage][name] = value
        return {name: stage.sampling.override(**changes[name]) for name, stage in self.stages.items()}

    @cached_property
    def params(self) -> dict[str, Any]:
        """All weights on the mesh: a network's under "STAGE", its tokenizer's under "STAGE_tokenizer"."""
        placed = {}
        for name, stage in self.stages.items():
            placed[name] = self._place(stage.network, stage.params, self.system().stages[name].own)
            if stage.tokenizer is not None:
                placed[f"{name}_tokenizer"] = self._place(stage.tokenizer, stage.tokenizer_params)
        return placed

    @cached_property
    def _mesh(self) -> Mesh:
        return one_device_mesh() if self.mesh is None else self.mesh

    def _place(self, module: Any, params: Any, own: Callable[[Any], Any] = lambda tree: tree) -> Any:
        return put_tree(params, tree_shardings(own(boxed_shapes(module)), self._mesh))

    def _rows(self, batch: Any) -> Any:
        """Puts arrays whose leading axis is the batch on the mesh."""
        return put_rows(batch, self._mesh)

    @contextmanager
    def _context(self) -> Iterator[None]:
        # With this flag, which is JAX's default, the random draws of a sample do not depend on the batch
        # size.
        with on_mesh(self._mesh), jax.threefry_partitionable(True):
            yield

    def generate_call(self, batch_size: int) -> tuple[Any, tuple[Any, ...]]:
        """The compiled program of `generate` and its inputs after the modules, with default parameters.

        Inputs that a call of `generate` would make are shapes. Weights may be shapes too.
        """
        raise NotImplementedError

    def trace_generate(self, batch_size: int) -> jax.stages.Traced:
        """Traces the program of `generate` for a batch; devices may belong to a topology only described."""
        program, inputs = self.generate_call(batch_size)
        with self._context():
            return program.trace(self.modules, *inputs, seed=np.uint32(0), progress=jax.eval_shape(silent))

    def vocabulary(self) -> dict[str, bytes]:
        """Files of the text tokenizer: name -> content."""
        return self.extra_files()

    def _run(
        self, program: Callable[..., Any], *inputs: Any, seed: int, progress: StepCallback | None, **more: Any
    ) -> Any:
        """Runs a compiled program (modules, *inputs, seed=, progress=, **more) and returns numpy arrays."""
        check_seed(seed)
        with listening(progress) as ticket, self._context():
            return to_host(program(self.modules, *inputs, seed=np.uint32(seed), progress=ticket, **more))

    @property
    def modules(self) -> Any:
        """Modules without their weights, the static argument of every program."""
        raise NotImplementedError


def load_pipeline(name: str | Path, *, mesh: Mesh | None = None, dtype: Any = None) -> Any:
    """Loads the pipeline of a packaged checkpoint, a pretrained directory or a run of any system.

    Args:
      name: such as "icons", or a path.
      mesh: devices to run on, see `Pipeline`; None: one device.
      dtype: type of the weights and of the computation; None: float32, or the type that a run was trained in.

    Raises:
      ValueError: the checkpoint is missing or damaged, its system has no pipeline, or its weights do not fit.
    """
    system = open_source(name).system
    if system.pipeline is None:
        raise ValueError(f"{name} is of the system {system.name!r}, which has no pipeline: give another.")
    return system.pipeline.from_pretrained(name, mesh=mesh, dtype=dtype)


def split_samples(samples: np.ndarray, num_samples: int | None) -> np.ndarray:
    """Reshapes (batch * num_samples, ...) to (batch, num_samples, ...), unless `num_samples` is None."""
    return samples if num_samples is None else samples.reshape(-1, num_samples, *samples.shape[1:])


def cells_under(mask: Bool[Array, "batch height width"], grid: Sequence[int]) -> Bool[Array, "batch n"]:
    """True for the cells of a grid, row by row, that contain any pixel of `mask`."""
    return reduce(mask, "b (h p) (w q) -> b (h w)", "max", h=grid[0], w=grid[1])
