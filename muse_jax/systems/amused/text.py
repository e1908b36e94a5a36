"""aMUSEd's text encoder: CLIP's, with its last states but one and its pooled embedding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from muse_jax.checkpointing.pretrained import fields_of, module_from
from muse_jax.checkpointing.safetensors import read_weights
from muse_jax.checkpointing.source import Source, open_source
from muse_jax.interop.content_hash import content_hash
from muse_jax.nn.clip import CLIPText
from muse_jax.nn.shapes import parameter_shapes
from muse_jax.text.text_tokenizers import JSONTokenizer

WEIGHTS, TOKENIZER = "text_encoder.safetensors", "tokenizer.json"


@dataclass(frozen=True, eq=False)
class PromptEncoder:
    """Frozen text encoder.

    module: the network.
    params: its weights, the first argument of `encode`; shapes where a program is only planned.
    tokenizer: its text tokenizer, None with shapes.
    """

    module: CLIPText
    params: Any
    tokenizer: JSONTokenizer | None

    @property
    def max_length(self) -> int:
        """Tokens that a text is cut or padded to."""
        return self.module.max_positions

    def tokenize(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 and mask bool, True on real tokens, both (batch, max_length)."""
        if self.tokenizer is None:
            raise ValueError("A text encoder without weights reads no text: load a whole checkpoint.")
        return self.tokenizer(texts, self.max_length)

    def content_hash(self) -> str:
        """Hash of the weights, rounded to bfloat16."""
        return content_hash(self.params, jnp.bfloat16)

    def option(self) -> dict[str, Any]:
        """Its section of a pretrained directory's config."""
        return {"network": fields_of(self.module), "pad_id": self.tokenizer.pad_id if self.tokenizer else 0}

    @classmethod
    def from_source(cls, source: Source, dtype: Any = None) -> "PromptEncoder":
        """The text encoder of a pretrained directory, or the one that a run names.

        Raises:
          ValueError: one sentence, for files that are missing, damaged or of another network.
        """
        section = source.option("text_encoder")
        if isinstance(section, str):
            named = open_source(section, "config.text_encoder")
            return cls.described(named) if source.abstract else cls.from_source(named, dtype)
        module, like = cls._module(source, section, dtype)
        params = read_weights(source.file(WEIGHTS), like, dtype or jnp.float32)
        file = source.file(TOKENIZER)
        if not file.is_file():
            raise ValueError(f"There is no {file}: put the complete checkpoint there.")
        return cls(module, params, JSONTokenizer.from_file(file, section["pad_id"]))

    @classmethod
    def described(cls, source: Source, dtype: Any = None) -> "PromptEncoder":
        """The text encoder without weights, whose `params` are shapes."""
        section: Any = source.option("text_encoder")
        module, like = cls._module(source, section, dtype)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, module.dtype), like)
        return cls(module, shapes, None)

    @staticmethod
    def _module(source: Source, section: Mapping[str, Any], dtype: Any) -> tuple[CLIPText, Any]:
        module = module_from(CLIPText, section["network"], source.file("config.json"), dtype or jnp.float32)
        return module, parameter_shapes(module)


def encode_prompts(
    module: CLIPText, params: Any, ids: Int[Array, "b n"], mask: Bool[Array, "b n"]
) -> tuple[Float[Array, "b n d"], Float[Array, "b p"]]:
    """States of all tokens before CLIP's last layer, and the projected state at each text's end."""
    end = jnp.sum(mask, axis=1) - 1
    states: Any = module.apply({"params": params}, ids, end, method="penultimate")
    return states
