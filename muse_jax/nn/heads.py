"""Output heads over the codes of a tokenizer: tied tables, and logits that are not multiplied out."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from muse_jax.nn.linear import Dense
from muse_jax.nn.norms import RMSNorm
from muse_jax.nn.transformer import gelu


class HeadTransform(nn.Module):
    """The layers between the transformer and the tied output table: dense, GELU, norm (MaskGIT)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        x = Dense((x.shape[-1],), ("embed", None), dtype=self.dtype, name="dense")(x)
        return RMSNorm(self.dtype, name="norm")(gelu(x))


class LinearLogits(NamedTuple):
    """The factors of logits, `unembed(hidden, table, bias)`, for samplers that stream the vocabulary."""

    hidden: Float[Array, "batch tokens width"]
    table: Float[Array, "vocab width"]
    bias: Float[Array, " vocab"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the logits, (batch, tokens, vocab)."""
        return (*self.hidden.shape[:-1], self.table.shape[0])


def unembed(
    hidden: Float[Array, "batch positions width"],
    table: Float[Array, "*groups vocab width"],
    bias: Float[Array, "*groups vocab"],
) -> Float[Array, "batch tokens vocab"]:
    """Float32 logits of the codes, `hidden @ table.T + bias`.

    With one table a group, a position has `groups` tokens, side by side.
    """
    table = table.astype(hidden.dtype)
    if table.ndim == 2:
        return jnp.einsum("bnd,vd->bnv", hidden, table, preferred_element_type=jnp.float32) + bias
    logits = jnp.einsum("bnd,gvd->bngv", hidden, table, preferred_element_type=jnp.float32) + bias
    return rearrange(logits, "b n g v -> b (n g) v")


def output_bias(module: nn.Module, vocab_size: int, groups: int) -> Array:
    """Creates the parameter `bias` of the output, of shape `(vocab_size,)` or `(groups, vocab_size)`."""
    names, shape = ((), ()) if groups == 1 else ((None,), (groups,))
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, (*names, "vocab"))
    bias: Any = module.param("bias", zeros, (*shape, vocab_size))
    return bias


class TiedHead(nn.Module):
    """Base of networks whose output table is their token embedding without its mask row.

    Subclasses have `hidden(*inputs)`, the features that the table is multiplied with, and, from `setup`,
    `embedding` (a `TokenGrid`) and `bias` (`output_bias`), for the fields `vocab_size` and `groups`.
    """

    def output_embedding(self) -> tuple[Float[Array, "*groups vocab width"], Float[Array, "*groups vocab"]]:
        """The output table and the output bias, of each group."""
        return self.embedding.embedding[..., : self.vocab_size, :], self.bias

    def logits(self, hidden: Float[Array, "batch positions width"]) -> Float[Array, "batch tokens vocab"]:
        """Float32 logits from `hidden`."""
        return unembed(hidden, *self.output_embedding())

    def linear_logits(self, *inputs: Array) -> LinearLogits | Float[Array, "batch tokens vocab"]:
        """The logits of the inputs of `hidden`, without the last product: samplers stream the vocabulary.

        The small vocabularies of several groups are multiplied out.
        """
        hidden = self.hidden(*inputs)
        return self.logits(hidden) if self.groups > 1 else LinearLogits(hidden, *self.output_embedding())
