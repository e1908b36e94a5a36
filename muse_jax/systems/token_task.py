"""Base of training tasks over captions and tokens of frozen tokenizers."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from muse_jax.checkpointing.source import Weights, open_source
from muse_jax.data import PrecomputedSource
from muse_jax.nn.shapes import parameter_shapes
from muse_jax.tokenizers import flat_tokens
from muse_jax.training.features import Origins, check_features
from muse_jax.training.task import Batch, Task


class TokenTask(Task):
    """Base of training tasks over captions and tokens of frozen tokenizers.

    Batches contain either images and captions, which the frozen networks encode inside the compiled step, or
    precomputed tokens (`config.data.features`).
    """

    config_defaults: ClassVar[Mapping[str, Any]] = {"tokenizer": "", "data": {"features": ""}}
    fields: tuple[str, ...] = ("image",)
    """The fields of a batch that become tokens."""
    network: Any

    @cached_property
    def tokenizers(self) -> dict[str, Weights]:
        """Tokenizers by the config keys that name them."""
        keys = [key for key in ("tokenizer", "superres_tokenizer") if key in self.config_defaults]
        return {key: open_source(self.config[key], f"config.{key}").tokenizer(key) for key in keys}

    def check_tokenizer(self, name: str, vocab: str, grid: str, image_size: int) -> None:
        """Checks the network's fields `vocab`, `grid` and groups against the tokenizer `name`.

        Raises:
          ValueError: the tokenizer's codes of images of `image_size` pixels are others.
        """
        tokenizer, network = self.tokenizers[name].module, self.network
        side, groups = image_size // tokenizer.downsampling, grid.replace("grid", "groups")
        given = (getattr(network, vocab), tuple(getattr(network, grid)), getattr(network, groups, 1))
        if given != (tokenizer.codebook_size, (side, side), tokenizer.groups):
            raise ValueError(
                f"config.model.{vocab}, {grid} and {groups} are {given[0]}, {given[1]} and {given[2]}, but "
                f"the tokenizer of config.{name} gives {tokenizer.codebook_size} codes on {(side, side)} in "
                f"{tokenizer.groups} groups at {image_size} px: set them to that."
            )

    def frozen_tokenizers(self) -> dict[str, Any]:
        """Weights of the tokenizers, by config key."""
        return {key: tokenizer.params for key, tokenizer in self.tokenizers.items()}

    def tokenizer_hashes(self) -> Mapping[str, str]:
        return {key: tokenizer.encoder_hash for key, tokenizer in self.tokenizers.items()}

    def tokenizer_shapes(self) -> dict[str, Any]:
        """Shapes of the tokenizers' weights, by config key."""
        return {key: parameter_shapes(tokenizer.module) for key, tokenizer in self.tokenizers.items()}

    def frozen_shapes(self) -> Any:
        """Shapes of the frozen weights; leaves may carry logical axis names."""
        return {"tokenizers": self.tokenizer_shapes()}

    def features(self, frozen: Any, *media: Any) -> dict[str, Array]:
        """Encodes the uint8 arrays of `fields` to flat tokens, by their names in a batch."""
        raise NotImplementedError

    def text_features(self, captions: Sequence[str], progress: Any = None) -> dict[str, np.ndarray]:
        """Features of captions to store, by their names in a batch.

        Args:
          captions: texts.
          progress: called with the number of finished captions and the total, if encoding takes long.
        """
        assert self.tokenize is not None
        ids, mask = self.tokenize(list(captions))
        return {"caption_ids": ids, "caption_mask": mask}

    @cached_property
    def origins(self) -> Origins:
        """Origins of features: config key of a tokenizer or encoder -> (its value, a hash of its content)."""
        hashes = self.tokenizer_hashes()
        return {**{key: (self.config[key], hashes[key]) for key in hashes}, **self.text_origins()}

    def text_origins(self) -> Origins:
        """Origins of the features of captions besides `tokenizer_hashes`."""
        return {}

    def check_features(self, source: PrecomputedSource) -> None:
        """Checks that stored features were made by the networks of the config and have their shapes."""
        check_features(source, self.config.data.features, self.origins, self.batch_shapes())

    def batch_shapes(self) -> Batch:
        """Shapes of a batch, without those of its captions."""
        batch = super().batch_shapes()
        if not self.config.data.features:
            return batch
        frozen = {"tokenizers": self.tokenizer_shapes()}
        media = [batch[field] for field in self.fields]
        return {"index": batch["index"], **jax.eval_shape(self.features, frozen, *media)}

    def caption_shapes(self, length: int) -> Batch:
        """Shapes of the captions of a batch as token ids."""
        shape = (self.config.data.batch_size, length)
        return {
            "caption_ids": jax.ShapeDtypeStruct(shape, jnp.int32),
            "caption_mask": jax.ShapeDtypeStruct(shape, bool),
        }


def encode(tokenizer: Any, params: Any, image: Array) -> Int[Array, "b n"]:
    """Encodes images in [-1, 1] to flat tokens."""
    return flat_tokens(tokenizer.encode(params, image))
