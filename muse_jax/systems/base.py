"""Pipelines: networks with their weights on the devices, and calls that give samples."""

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
from muse_jax.sampling.progress import StepCallback, listening
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
    """A network of a pipeline with its weights and sampling parameters.

    params: those of the network's parameters that `Stage.own` picks.
    tokenizer, tokenizer_params: of the latents it draws; None for a stage that shares another's.
    """

    network: Any
    params: Any
    sampling: Any
    tokenizer: Any = None
    tokenizer_params: Any = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images it draws."""
        height, width = self.network.grid
        return height * self.tokenizer.downsampling, width * self.tokenizer.downsampling

    def to_dict(self) -> dict[str, Any]:
        """Its section of a pretrained directory's config."""
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

    Weights lie over the mesh by the rules that training follows, and batches are split over its data and fsdp
    axes where they divide evenly. Samples do not depend on the mesh. On a mesh of several processes, each of
    them makes the same calls and gets the whole result.

    Attributes:
      system_name: what `find_system` finds its system by.
      mesh: the devices to run on (`muse_jax.sharding.partitioning.make_mesh`); None: one device.
    """

    system_name: ClassVar[str]
    mesh: Mesh | None = field(default=None, kw_only=True)

    @classmethod
    def system(cls) -> System:
        """The system that it is the pipeline of."""
        return find_system(cls.system_name)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, mesh: Mesh | None = None, dtype: Any = None, **components: Any
    ) -> Self:
        """Loads a packaged checkpoint, a directory that `save_pretrained` wrote, or the workdir of a run.

        Args:
          name: such as "icons", or a path.
          mesh: the devices to run on; None: one device.
          dtype: of the weights and of the computation; None: float32, or what a run was trained in.
          components: replacements for parts that are not stages, such as `text_encoder`.

        Raises:
          ValueError: one sentence, for a checkpoint that is missing, damaged, of another system, or whose
            weights do not fit.
        """
        source = open_source(name)
        if source.system.pipeline is not cls:
            raise ValueError(
                f"The checkpoint {name} is of the system {source.system.name!r}, not of "
                f"{cls.system_name!r}: load it with muse_jax.load_pipeline, or take another."
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
        """A pipeline whose stages come from several sources, such as a training run each.

        Args:
          sources: stage -> source.
          tokenizers: config key -> source of a tokenizer, in place of the one that a stage names: one with
            the same codes and a fine-tuned decoder, for instance.
          mesh, dtype, components: see `from_pretrained`.

        Raises:
          ValueError: one sentence, for stages that are missing or do not go together.
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
                "leave it out."
            )
        return cls(**cls.load_components(sources, stages, dtype, **components), **stages, mesh=mesh)

    @classmethod
    def load_components(
        cls, sources: Mapping[str, Source], stages: Mapping[str, LoadedStage], dtype: Any, **given: Any
    ) -> dict[str, Any]:
        """The parts that are not stages, by the names of their fields.

        Args:
          sources, stages: by the name of the stage.
          dtype: of the weights and of the computation; None: float32.
          given: `components` of `from_pretrained`.

        Raises:
          ValueError: one sentence, for sources that were not trained together.
        """
        return {}

    def save_pretrained(self, directory: str | Path, dtype: str = "float16") -> dict[str, int]:
        """Writes a directory that `from_pretrained` reads; other files in it stay as they are.

        A crash or a full disk leaves the checkpoint that was there, or none.

        Args:
          directory: made if it is not there.
          dtype: of the stored weights: "float16", "bfloat16" or "float32".

        Returns:
          The size in bytes of each file written.

        Raises:
          ValueError: one sentence, for a directory that cannot be written to, a run's workdir, or weights
            that do not fit in `dtype`.
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
        """Entries of a pretrained directory's config beside the stages'."""
        return {}

    def extra_files(self) -> dict[str, bytes]:
        """Further files of a pretrained directory: name -> content."""
        return {}

    @property
    def stages(self) -> dict[str, LoadedStage]:
        """The stages that are there, in the order in which they run."""
        found = {name: getattr(self, name) for name in self.system().stages}
        return {name: stage for name, stage in found.items() if stage is not None}

    def sampling(self, **given: Any) -> dict[str, SamplingParams]:
        """The sampling parameters of each stage, those of the checkpoint with `given` values in their place.

        A name is that of a parameter of the first stage, or "STAGE_PARAMETER" for another one. None leaves
        the checkpoint's value.

        Raises:
          ValueError: one sentence, for an unknown name or a value out of range.
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
        """All weights on the mesh: under "STAGE" the network's, under "STAGE_tokenizer" its tokenizer's."""
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
        """Arrays whose leading axis is the batch, on the mesh."""
        return put_rows(batch, self._mesh)

    @contextmanager
    def _context(self) -> Iterator[None]:
        # Under this flag, which is JAX's default, a sample's draws do not depend on the batch's size.
        with on_mesh(self._mesh), jax.threefry_partitionable(True):
            yield

    def _run(
        self, program: Callable[..., Any], *inputs: Any, seed: int, progress: StepCallback | None, **more: Any
    ) -> Any:
        """Runs a compiled program (modules, *inputs, seed=, progress=, **more); numpy results."""
        check_seed(seed)
        with listening(progress) as ticket, self._context():
            return to_host(program(self.modules, *inputs, seed=np.uint32(seed), progress=ticket, **more))

    @property
    def modules(self) -> Any:
        """The modules without their weights: the static argument of every program."""
        raise NotImplementedError


def load_pipeline(name: str | Path, *, mesh: Mesh | None = None, dtype: Any = None) -> Any:
    """The pipeline of a packaged checkpoint, a pretrained directory or a run, whatever its system.

    Args:
      name: such as "icons", or a path.
      mesh: the devices to run on, see `Pipeline`; None: one device.
      dtype: of the weights and of the computation; None: float32, or what a run was trained in.

    Raises:
      ValueError: one sentence, for a checkpoint that is missing, damaged, or whose weights do not fit.
    """
    system = open_source(name).system
    if system.pipeline is None:
        raise ValueError(f"{name} is of the system {system.name!r}, which has no pipeline: give another.")
    return system.pipeline.from_pretrained(name, mesh=mesh, dtype=dtype)


def split_samples(samples: np.ndarray, num_samples: int | None) -> np.ndarray:
    """Samples (batch * num_samples, ...) as (batch, num_samples, ...); as they are where that is None."""
    return samples if num_samples is None else samples.reshape(-1, num_samples, *samples.shape[1:])


def cells_under(mask: Bool[Array, "batch height width"], grid: Sequence[int]) -> Bool[Array, "batch n"]:
    """The cells of a grid, row by row, that hold any pixel of `mask`."""
    return reduce(mask, "b (h p) (w q) -> b (h w)", "max", h=grid[0], w=grid[1])
