"""The stages that pipelines are made of, and how checkpoints hold them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from muse_jax.checkpointing import pretrained as checkpoint
from muse_jax.systems.validation import Decoding
from muse_jax.tokenizers import VQGAN


@dataclass(frozen=True, eq=False)
class Stage:
    """A token network, the tokenizer of its tokens, their weights, and how tokens are drawn by default."""

    network: Any  # with `grid`: MaskedTransformer, SuperResTransformer, CogLM
    params: Any
    tokenizer: VQGAN
    tokenizer_params: Any
    decoding: Any = Decoding()

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.network.grid
        return height * self.tokenizer.downsampling, width * self.tokenizer.downsampling

    def to_dict(self) -> dict[str, Any]:
        """Its section of a checkpoint's config."""
        return {
            "network": checkpoint.fields_of(self.network),
            "tokenizer": checkpoint.fields_of(self.tokenizer),
            "decoding": self.decoding.to_dict(),
        }


@dataclass(frozen=True, eq=False)
class FineStage:
    """A network that draws more tokens of a tokenizer that another stage has."""

    network: Any
    params: Any
    decoding: Any

    def to_dict(self) -> dict[str, Any]:
        """Its section of a checkpoint's config."""
        return {"network": checkpoint.fields_of(self.network), "decoding": self.decoding.to_dict()}


def read_stage(
    directory: Path,
    config: Mapping[str, Any],
    stage: str,
    kind: type,
    decoding: Any = Decoding,
    dtype: Any = jnp.float32,
) -> Stage:
    """The stage of a checkpoint whose network is a `kind`, with settings of the class `decoding`.

    Raises:
      ValueError: one sentence, for a stage that is damaged or whose parts do not fit.
    """
    network = checkpoint.read_part(directory, config, stage, "network", kind, dtype)
    tokenizer = checkpoint.read_part(directory, config, stage, "tokenizer", VQGAN, dtype)
    return Stage(*network, *tokenizer, decoding.from_mapping(config[stage]["decoding"]))
