"""Base of the training tasks that read the states of a frozen text encoder."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from muse_jax.data.loader import Tokenize
from muse_jax.sharding.partitioning import current_mesh, put_tree, replicated, tree_shardings
from muse_jax.systems.token_task import TokenTask
from muse_jax.text import TextEncoder, encode_captions, load_text_encoder
from muse_jax.training.features import Origins
from muse_jax.training.task import Batch


class TextStatesTask(TokenTask):
    """Base of training tasks that read the states of a frozen text encoder.

    The states are computed from captions inside the compiled step, or precomputed (`config.data.features`).
    """

    network: Any
    config_defaults: ClassVar[Mapping[str, Any]] = {
        **TokenTask.config_defaults,
        "data": {"features": "", "text_encoder": "minilm"},
    }

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """Encoder of `config.data.text_encoder`."""
        return load_text_encoder(self.config.data.text_encoder, dtype=jnp.dtype(self.network.dtype))

    def check_text_dim(self) -> None:
        """Checks that the network reads states of the encoder's width."""
        given = self.config.model.get("text_dim")
        if given != self.text_encoder.dim:
            raise ValueError(
                f"config.model.text_dim is {given}, but the text encoder's states are "
                f"{self.text_encoder.dim} wide: set it to that."
            )

    @property
    def reads_states(self) -> bool:
        """Whether batches contain text states, so that the step does not run the text encoder."""
        return bool(self.config.data.features)

    @property
    def tokenize(self) -> Tokenize:  # type: ignore[override]
        """The text encoder's tokenizer."""
        return self.text_encoder.tokenize

    def text_origins(self) -> Origins:
        encoder = self.text_encoder
        return {"data.text_encoder": (encoder.name, encoder.content_hash())}

    def text_features(self, captions: Sequence[str], progress: Any = None) -> dict[str, np.ndarray]:
        """Text states of captions."""
        states, mask = encode_captions(self.sharded_text_encoder(), captions, progress=progress)
        return {"text_states": states, "text_mask": mask}

    def sharded_text_encoder(self) -> TextEncoder:
        """The text encoder with its weights distributed over the mesh."""
        encoder = self.text_encoder
        shardings = tree_shardings(encoder.boxed_shapes(), current_mesh())
        return dataclasses.replace(encoder, params=put_tree(encoder.params, shardings))

    def frozen(self) -> Any:
        encoder = self.sharded_text_encoder()
        ids, mask = encoder.tokenize([""])
        encode = jax.jit(encoder.apply, out_shardings=replicated(current_mesh()))
        return {
            "tokenizers": self.frozen_tokenizers(),
            "text": {} if self.reads_states else encoder.params,
            "null_text": encode(encoder.params, ids, mask),
            "null_mask": mask,
        }

    def frozen_shapes(self) -> Any:
        encoder = self.text_encoder
        return {
            "tokenizers": self.tokenizer_shapes(),
            "text": {} if self.reads_states else encoder.boxed_shapes(),
            "null_text": jax.ShapeDtypeStruct((1, encoder.max_length, encoder.dim), jnp.float32),
            "null_mask": jax.ShapeDtypeStruct((1, encoder.max_length), bool),
        }

    def batch_shapes(self) -> Batch:
        batch, encoder = super().batch_shapes(), self.text_encoder
        captions = self.caption_shapes(encoder.max_length)
        if not self.reads_states:
            return {**batch, **captions}
        mask = captions["caption_mask"]
        states = jax.ShapeDtypeStruct((*mask.shape, encoder.dim), jnp.float16)
        return {**batch, "text_states": states, "text_mask": mask}

    def text(self, frozen: Any, batch: Batch) -> tuple[Array, Array]:
        """Text states and mask of a batch."""
        if "text_states" in batch:
            return batch["text_states"].astype(jnp.float32), batch["text_mask"]
        mask = batch["caption_mask"]
        states = self.text_encoder.apply(frozen["text"], batch["caption_ids"], mask)
        return jax.lax.stop_gradient(states), mask
