"""Base of the training tasks."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from muse_jax.checkpointing.source import RunSource
from muse_jax.config_keys import check_keys
from muse_jax.data import PLAIN_CAPTIONS, PrecomputedSource, load_source, make_loader
from muse_jax.data.loader import Tokenize
from muse_jax.media import Modality
from muse_jax.media.image import ImageModality
from muse_jax.sampling.params import SamplingParams
from muse_jax.sharding.partitioning import process_rows
from muse_jax.system import find_system
from muse_jax.training.features import check_augment

Batch = Mapping[str, Any]
PREVIEW_IMAGES = 8
Sums = tuple[Any, Any]  # a sum and its weight for each example of a batch
Module = TypeVar("Module", bound=nn.Module)


class Task:
    """Base of the training tasks: parameters, loss, evaluation and batches.

    A subclass defines `init`, `loss`, `evaluate` and `preview`, which are pure functions and get traced. All
    other methods have defaults.
    """

    config_defaults: ClassVar[Mapping[str, Any]] = {}
    """Config keys of this task, in addition to those of all tasks, with their defaults."""
    sampling_params: ClassVar[type[SamplingParams] | None] = None
    """Class of `config.sampling`; None if the task does not sample."""
    tokenize: Tokenize | None = None
    """Function from captions to (ids, mask); None if the task does not read text."""

    sample: Any = None
    """(params, frozen, batch, key) -> uint8 images (b, height, width, 3), if the task generates images."""

    def __init__(self, config: Any):
        self.config = config

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Checks the values of `config_defaults`.

        Raises:
          ValueError: a value is out of range.
        """

    def params_from(self, source: Any) -> Any | None:
        """Initial parameters of this task, made from another `Source`.

        None means that the source is a run, whose parameters are used where path and shape agree.
        """
        return None if isinstance(source, RunSource) else source.network(self.stage).params

    @property
    def stage(self) -> str:
        """Name of the stage of the system that the task trains."""
        return find_system(self.config.system).stage_of(self.config.task)

    def init(self, key: jax.Array) -> Any:
        """Fresh parameters; leaves may carry logical axis names. Traced."""
        raise NotImplementedError

    def initialize_from_data(self, params: Any, key: jax.Array) -> Any:
        """Sets values in `params` of `init(key)` that depend on data. Called once per run, not traced."""
        return params

    def frozen(self) -> Any:
        """Weights that are used but not trained."""
        return {}

    def tokenizer_hashes(self) -> Mapping[str, str]:
        """Hash of each frozen tokenizer's content by config key, which must agree when a run resumes."""
        return {}

    def frozen_shapes(self) -> Any:
        """Shapes of `frozen()`, without reading weights; leaves may carry logical axis names."""
        return {}

    def loss(
        self, params: Any, frozen: Any, batch: Batch, key: jax.Array, step: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The scalar to minimize, and scalars to log. Traced.

        An optional scalar "weight" is not logged: it is the number of items, such as masked tokens, over
        which the others are means, if it differs between batches.
        """
        raise NotImplementedError

    def after_update(self, params: Any, frozen: Any, batch: Batch, key: Any, step: Any) -> Any:
        """Parameters after an update, with changes that are not due to gradients. Traced, once per step."""
        return params

    def evaluate(self, params: Any, frozen: Any, batch: Batch, keys: jax.Array) -> dict[str, Sums]:
        """Scores of each example of a batch: name -> (sums (b, ...), weights (b,)). Traced.

        A score over a split is the total of its sums divided by the total of its weights. The weights are
        the number of masked tokens for a mean over these, or 1 for a mean over examples. `keys` (b,) seed
        random draws and depend only on each example's "index".
        """
        raise NotImplementedError

    def summarize(self, scores: dict[str, Any]) -> dict[str, Any]:
        """Scalars to report, from the scores over a split. Not traced."""
        return scores

    def preview(self, params: Any, frozen: Any, batch: Batch, key: jax.Array) -> dict[str, Any]:
        """Images, videos or audio for the log, by name, see `muse_jax.media.as_medium`. Traced."""
        return {}

    def make_loader(self, split: str, seed: int) -> Iterator[Batch]:
        """This process's rows of the batches of a split, as dicts of numpy arrays.

        The training split repeats without end, shuffled and augmented; any other is read as for evaluation.
        The loader has `get_state()`, whose result can be stored as JSON, and `set_state(state)`.
        """
        if split != self.config.data.split:
            return self.eval_loader(split)
        return self.read(split, seed, process_rows(self.config.data.batch_size))

    def eval_loader(self, split: str) -> Iterator[Batch]:
        """This process's rows of one pass over a split, without augmentation, with plain captions.

        Batches have equal size and are the same at each call. Each has "index", the number of each example in
        its split, and "example_mask", which is False for examples that only pad the last batch.
        """
        rows = process_rows(self.config.data.batch_size)
        return self.read(split, 0, rows, augment="none", caption=PLAIN_CAPTIONS, num_epochs=1)

    def read(self, split: str, seed: int, rows: Any = None, **changes: Any) -> Iterator[Batch]:
        """Reads rows `rows` (None: all) of batches of `split` as in training.

        `changes` override arguments of `muse_jax.data.make_loader`.
        """
        data = self.config.data
        augment = changes.pop("augment", data.augment)
        if data.get("features"):
            source = load_source(f"precomputed:{data.features}", split)
            self.check_features(source)
            check_augment(source, data.features, augment)
            augment = "none"
        else:
            source = load_source(data.source, split, data.get("data_dir"))
        options = {
            "batch_size": data.batch_size,
            "modalities": self.modalities(augment),
            "augment": augment,
            "encoder_tokenize": self.tokenize,
            "workers": data.workers,
            "seed": seed,
            "rows": rows,
        }
        return make_loader(source, **{**options, **changes})

    def modalities(self, augment: str) -> Mapping[str, Modality]:
        """Modality of each field of the records. Default: images of `config.data.image_size`.

        A task on video or audio overrides this method and `media_shapes`.

        Args:
          augment: `config.data.augment` for training, "none" for evaluation.
        """
        return {"image": ImageModality(self.config.data.image_size, augment)}

    def check_features(self, source: PrecomputedSource) -> None:
        """Checks that stored features are those of the config."""
        raise ValueError(
            f"config.data.features is set, but the task {self.config.task} reads images: omit it."
        )

    def batch_shapes(self) -> Batch:
        """Shapes of a batch on the devices."""
        return {
            **self.media_shapes(),
            "index": jax.ShapeDtypeStruct((self.config.data.batch_size,), jnp.int32),
        }

    def media_shapes(self) -> Batch:
        """Shapes of the images, videos or audio of a batch."""
        data = self.config.data
        shape = (data.batch_size, data.image_size, data.image_size, 3)
        return {"image": jax.ShapeDtypeStruct(shape, jnp.uint8)}


def build(module: type[Module], section: str, fields: Mapping[str, Any]) -> Module:
    """Makes a module from fields of a config, with lists converted to tuples.

    Raises:
      ValueError: the module lacks a field.
    """
    known = {field.name for field in dataclasses.fields(module)} - {"parent", "name"}
    check_keys(section, fields, known)
    return module(**{k: tuple(v) if isinstance(v, list | tuple) else v for k, v in dict(fields).items()})


def check_loss_keys(config: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Completes `config.loss` with the defaults in `known`.

    Raises:
      ValueError: a key is not in `known`.
    """
    check_keys("loss", config.loss, known)
    return {**known, **config.loss}
