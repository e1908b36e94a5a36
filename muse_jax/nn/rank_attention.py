"""Attention by rank: one integer per token defines the attention mask (CogLM; CogView2, section 3.1).

A token attends to tokens of its own rank and of lower ranks; tokens of negative rank are absent. Tokens of
equal rank form a bidirectional context, and ranks that increase by one form a causal region. The functions
have the type that `SandwichStack` takes as `attend`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from muse_jax.nn.sandwich import QKV

_ABSENT = -1e9  # finite, so that a query without any key gives numbers and not NaN


def visible(
    query_ranks: Int[Array, "batch queries"], key_ranks: Int[Array, "batch keys"]
) -> Bool[Array, "batch queries keys"]:
    """Attention mask: True for keys that are present and of no higher rank than the query."""
    keys = key_ranks[:, None, :]
    return (keys >= 0) & (keys <= query_ranks[:, :, None])


@struct.dataclass
class Ranks:
    """Inputs of attention by rank besides queries, keys and values."""

    query: Int[Array, "batch queries"]
    key: Int[Array, "batch keys"]
    weight: Float[Array, "batch keys"] | Float[Array, ""]
    """Added to the scores of each key (`attn_plus`); with a memory, the last entry is the new token's own."""


def _logits(query: Array, key: Array, mask: Array, weight: Array) -> Array:
    """Float32 (batch, heads, queries, keys); `mask` (batch, queries, keys), `weight` broadcast over keys."""
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    weight = jnp.broadcast_to(weight, (mask.shape[0], mask.shape[2]))[:, None, None, :]
    return jnp.where(mask[:, None], logits * query.shape[-1] ** -0.5 + weight, _ABSENT)


def _mix(weights: Array, value: Array) -> Array:
    return jnp.einsum(
        "bhqk,bhkd->bhqd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32
    )


def attend_by_rank(streams: tuple[QKV, ...], memory: None, ranks: Ranks) -> tuple[tuple[Array, ...], Any]:
    """Attention of one stream to itself under the mask of `visible`; keeps nothing."""
    ((query, key, value),) = streams
    logits = _logits(query, key, visible(ranks.query, ranks.key), ranks.weight)
    return (_mix(jax.nn.softmax(logits), value).astype(value.dtype),), None


def remember(streams: tuple[QKV, ...], memory: None, ranks: Ranks) -> tuple[tuple[Array, ...], Any]:
    """`attend_by_rank` that also keeps the keys and values, for a cache."""
    _, key, value = streams[0]
    return attend_by_rank(streams, memory, ranks)[0], (key, value)


def attend_to_memory(
    streams: tuple[QKV, ...], memory: tuple[Array, Array], ranks: Ranks
) -> tuple[tuple[Array, ...], Any]:
    """Attention of one new token to the cached tokens and to itself; keeps its own key and value.

    The cache is only read: the caller writes the new token of all layers at once, in place.
    """
    ((query, key, value),) = streams
    old_key, old_value = memory
    old = _logits(query, old_key, visible(ranks.query, ranks.key), ranks.weight[:, :-1])
    itself = _logits(query, key, jnp.ones((len(query), 1, 1), bool), ranks.weight[:, -1:])
    weights = jax.nn.softmax(jnp.concatenate([old, itself], axis=-1))
    out = _mix(weights[..., :-1], old_value) + _mix(weights[..., -1:], value)
    return (out.astype(value.dtype),), (key, value)
