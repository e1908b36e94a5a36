"""Conditions that a network reads: states of a text encoder."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from muse_jax.nn.linear import Dense
from muse_jax.nn.norms import RMSNorm


class TextProjection(nn.Module):
    """Projects text states to the transformer's width and normalizes them, whatever the encoder's scale."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text: Float[Array, "batch text text_dim"]) -> Float[Array, "batch text width"]:
        text = Dense((self.width,), (None, "embed"), dtype=self.dtype, name="dense")(text)
        return RMSNorm(self.dtype, name="norm")(text)


def check_text(text: Array, text_mask: Array, text_dim: int) -> None:
    """Raises ValueError unless `text` is `(batch, text, text_dim)` and `text_mask` its `(batch, text)`."""
    if text.ndim != 3 or text.shape[-1] != text_dim:
        raise ValueError(
            f"text has shape {text.shape}, but the network reads (batch, text tokens, {text_dim}); "
            "use the text encoder it was configured for, or set text_dim to this encoder's width."
        )
    if text_mask.shape != text.shape[:2]:
        raise ValueError(
            f"text_mask has shape {text_mask.shape}, but the text states need {text.shape[:2]}; "
            "pass one flag a text token."
        )
