"""Softmax attention and the multi-head attention layer."""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from muse_jax.nn.linear import Dense
from muse_jax.nn.norms import RMSNorm

_MASKED = -1e9  # finite, so that a row without any key gives numbers and not NaN


def attend(
    query: Float[Array, "batch heads queries kv"],
    key: Float[Array, "batch heads keys kv"],
    value: Float[Array, "batch heads keys kv"],
    mask: Bool[Array, "batch keys"] | None = None,
    *,
    bias: Float[Array, "#batch heads queries keys"] | None = None,
    scale: float | None = None,
) -> Float[Array, "batch heads queries kv"]:
    """Softmax attention with scores, softmax and sums in float32.

    The heads come before the tokens so that both products are plain batched matrix products, which XLA on CPU
    runs about twice as fast. The division by the softmax's sum follows the product with the values, where
    fewer numbers are divided.

    Args:
      mask: False for keys that get no weight. The result is zero where all keys of a row are masked.
      bias: added to the scaled scores.
      scale: factor of the scores; `kv ** -0.5` by default.

    Returns:
      an array of the values' dtype.
    """
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    logits = logits * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, _MASKED)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum(
        "bhqk,bhkd->bhqd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32
    )
    out = out / total
    if mask is not None:
        out = out * mask.any(axis=-1)[:, None, None, None]
    return out.astype(value.dtype)


class Attention(nn.Module):
    """Multi-head attention of `x` to `context`, or to itself, with normalized queries and keys.

    Queries and keys are RMS-normalized per head. This bounds the scores, which keeps wide and deep models
    stable in bfloat16.

    Fields:
      heads: number of heads; divides the width.
      out_scale: relative scale of the initial output projection; below 1 in deep stacks.
      dtype: of the computation.
    """

    heads: int
    out_scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        context: Float[Array, "batch keys width"] | None = None,
        mask: Bool[Array, "batch keys"] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        width = x.shape[-1]
        head_dim = width // self.heads

        def split_heads(name: str, x: Array, parts: int) -> Array:
            names = ("embed", None, "heads", "kv")
            dense = Dense((parts, self.heads, head_dim), names, dtype=self.dtype, name=name)
            return rearrange(dense(x), "b n parts h d -> parts b h n d")

        if context is None:
            query, key, value = split_heads("qkv", x, 3)
        else:
            (query,) = split_heads("query", x, 1)
            key, value = split_heads("key_value", context, 2)
        query = RMSNorm(self.dtype, "kv", name="query_norm")(query)
        key = RMSNorm(self.dtype, "kv", name="key_norm")(key)
        out = rearrange(attend(query, key, value, mask), "b h n d -> b n (h d)")
        return Dense((width,), ("heads", "embed"), self.out_scale, self.dtype, name="out")(out)


def check_width(width: int, heads: int) -> None:
    """Raises ValueError unless `heads` divides `width`."""
    if width % heads:
        raise ValueError(
            f"width {width} does not split into {heads} heads; choose heads that divide the width."
        )
