"""What a task is: the part of training that knows what is being learned."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from muse_jax.data import load_source, make_loader
from muse_jax.training.config import check_keys
from muse_jax.training.partitioning import process_rows

Batch = Mapping[str, Any]
Module = TypeVar("Module", bound=nn.Module)


class Task:
    """Where a task starts: config and batches. `muse_jax.training.Task` says what the loop asks of it."""

    def __init__(self, config):
        self.config = config

    def initialize_from_data(self, params: Any, key: jax.Array) -> Any:
        """The parameters as they are."""
        return params

    def summarize(self, scores: dict[str, Any]) -> dict[str, Any]:
        """The averages as they are."""
        return scores

    def make_loader(self, split: str, seed: int) -> Iterator[Batch]:
        """This process's rows of batches of `split`, with `get_state` and `set_state`."""
        return self.read(split, seed, process_rows(self.config.data.batch_size))

    def read(self, split: str, seed: int, rows: Any = None) -> Iterator[Batch]:
        """Rows `rows` of batches of `split`: by default all, the same in every process."""
        data = self.config.data
        return make_loader(
            load_source(data.source, split, data.get("data_dir")),
            batch_size=data.batch_size,
            image_size=data.image_size,
            augment=data.augment,
            workers=data.workers,
            seed=seed,
            num_epochs=self.num_epochs(split),
            rows=rows,
        )

    def batch_shapes(self) -> Batch:
        """The shapes of a batch on the devices."""
        data = self.config.data
        return {
            "image": jax.ShapeDtypeStruct((data.batch_size, data.image_size, data.image_size, 3), jnp.uint8),
            "index": jax.ShapeDtypeStruct((data.batch_size,), jnp.int32),
        }

    def num_epochs(self, split: str) -> int | None:
        """The training split repeats without end (None); any other is read once."""
        return None if split == self.config.data.split else 1


def build(module: type[Module], section: str, fields: Mapping[str, Any]) -> Module:
    """`module(**fields)`, tuples restored where the config has lists.

    Raises:
        ValueError: one sentence, for a field that the module does not have.
    """
    known = {field.name for field in dataclasses.fields(module)} - {"parent", "name"}
    check_keys(section, fields, known)
    return module(**{k: tuple(v) if isinstance(v, list | tuple) else v for k, v in dict(fields).items()})


def check_loss_keys(config: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """`config.loss` completed from `known`, the defaults.

    Raises:
        ValueError: one sentence, for a key that is not there.
    """
    check_keys("loss", config.loss, known)
    return {**known, **config.loss}
