"""T5 v1.1 encoder (Raffel et al. 2020; v1.1 is the gated-GELU revision), the text encoder of Muse.

It has pre-norm layers with RMSNorm, no biases, unscaled attention scores (the initial query projection is
scaled instead), one table of relative position biases for all layers, and gated GELU in its tanh form.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from muse_jax.interop.name_table import Source, Tensors
from muse_jax.nn.attention import attend
from muse_jax.nn.norms import RMSNorm
from muse_jax.sharding.fsdp import constrain, gather


@dataclass(frozen=True)
class T5Config:
    """Sizes of a T5 v1.1 encoder; the paper's d_model is `width`, d_ff `mlp_dim` and d_kv `head_dim`."""

    width: int
    mlp_dim: int
    depth: int
    heads: int
    head_dim: int = 64
    vocab_size: int = 32128
    buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6

    @classmethod
    def from_tensors(cls, tensors: Tensors, table: Mapping[str, Source], **rest: Any) -> "T5Config":
        """Reads the sizes from the shapes in a checkpoint; `rest` are fields that shapes do not determine.

        Raises:
          ValueError: if a tensor of a T5 v1.1 encoder is missing.
        """

        def shape(path: str) -> tuple[int, ...]:
            name = table[path].name.format(layer=0)
            if name not in tensors:
                raise ValueError(f"The checkpoint holds no tensor {name!r}: it is not a T5 v1.1 encoder.")
            shape = tensors.shape(name)
            return shape[::-1] if table[path].transpose else shape

        depth_name = table["layers/attention/query/kernel"].name
        depth = 0
        while depth_name.format(layer=depth) in tensors:
            depth += 1
        vocab_size, width = shape("token_embedding")
        buckets, heads = shape("relative_bias")
        inner = shape("layers/attention/query/kernel")[1]
        return cls(
            width=width,
            mlp_dim=shape("layers/mlp/wi_0/kernel")[1],
            depth=depth,
            heads=heads,
            head_dim=inner // heads,
            vocab_size=vocab_size,
            buckets=buckets,
            **rest,
        )


def relative_buckets(tokens: int, buckets: int = 32, max_distance: int = 128) -> Int[np.ndarray, "query key"]:
    """Relative position bucket of each (query, key) pair, bidirectional (Raffel et al. 2020, section 2.1).

    Each small distance has a bucket of its own, larger ones share buckets of logarithmic width, and all
    distances beyond `max_distance` share the last one.
    """
    half = buckets // 2
    exact = half // 2
    offset = np.arange(tokens)[None, :] - np.arange(tokens)[:, None]  # key minus query
    distance = np.abs(offset)
    growth = np.log(np.maximum(distance, 1) / exact) / np.log(max_distance / exact)
    # The small term keeps distances exactly on a border, such as 64, on the far side despite rounding.
    far = exact + np.floor(growth * (half - exact) + 1e-6).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(far, half - 1))
    return (bucket + half * (offset > 0)).astype(np.int32)


# Sizes of the published T5 v1.1 checkpoints.
T5_SIZES: dict[str, T5Config] = {
    "t5-v1_1-small": T5Config(width=512, mlp_dim=1024, depth=8, heads=6),
    "t5-v1_1-base": T5Config(width=768, mlp_dim=2048, depth=12, heads=12),
    "t5-v1_1-large": T5Config(width=1024, mlp_dim=2816, depth=24, heads=16),
    "t5-v1_1-xl": T5Config(width=2048, mlp_dim=5120, depth=24, heads=32),
    "t5-v1_1-xxl": T5Config(width=4096, mlp_dim=10240, depth=24, heads=64),
}


def _dense(features: int, names: tuple[str, str], std: float, dtype: Any, name: str) -> nn.Dense:
    def promote(x: Array, kernel: Array, bias: None, *, dtype: Any) -> tuple[Array, Array, None]:
        return x.astype(dtype), gather(kernel.astype(dtype), names), bias

    init = nn.with_logical_partitioning(nn.initializers.normal(std), names)
    return nn.Dense(features, use_bias=False, dtype=dtype, kernel_init=init, promote_dtype=promote, name=name)


class T5Attention(nn.Module):
    """Self-attention with a bias for each relative position and unscaled scores."""

    config: T5Config
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens embed"], bias: Float[Array, "batch heads query key"]
    ) -> Float[Array, "batch tokens embed"]:
        c = self.config
        inner = c.heads * c.head_dim

        def project(name: str, std: float) -> Array:
            projected = _dense(inner, ("embed", "heads"), std, self.dtype, name)(x)
            return rearrange(projected, "b t (h d) -> b h t d", h=c.heads)

        query = project("query", (c.width * c.head_dim) ** -0.5)
        key, value = project("key", c.width**-0.5), project("value", c.width**-0.5)
        mixed = rearrange(attend(query, key, value, bias=bias, scale=1.0), "b h t d -> b t (h d)")
        return _dense(c.width, ("heads", "embed"), inner**-0.5, self.dtype, "out")(mixed)


class GatedMlp(nn.Module):
    """MLP gated by GELU (T5 v1.1)."""

    config: T5Config
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens embed"]) -> Float[Array, "batch tokens embed"]:
        c = self.config
        gate = _dense(c.mlp_dim, ("embed", "mlp"), c.width**-0.5, self.dtype, "wi_0")(x)
        linear = _dense(c.mlp_dim, ("embed", "mlp"), c.width**-0.5, self.dtype, "wi_1")(x)
        hidden = nn.gelu(gate, approximate=True) * linear
        return _dense(c.width, ("mlp", "embed"), c.mlp_dim**-0.5, self.dtype, "wo")(hidden)


_STATES = ("batch", None, None)  # without it XLA shards the width, like the rows of the embedding


class T5Layer(nn.Module):
    """Transformer layer in the form that `nn.scan` takes: it returns (carry, None)."""

    config: T5Config
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens embed"], bias: Float[Array, "batch heads query key"]
    ) -> tuple[Array, None]:
        c, dtype = self.config, self.dtype
        x = x + T5Attention(c, dtype, name="attention")(
            RMSNorm(dtype, epsilon=c.epsilon, name="attention_norm")(x), bias
        )
        x = x + GatedMlp(c, dtype, name="mlp")(RMSNorm(dtype, epsilon=c.epsilon, name="mlp_norm")(x))
        return constrain(x, _STATES), None


class T5Encoder(nn.Module):
    """T5 v1.1 encoder of any size.

    Called with ids int32 (batch, tokens) and mask bool (batch, tokens), True on real tokens. Returns the
    normalized states of the last layer, float32 (batch, tokens, width). `dtype` applies to matrix products
    and the residual stream; norms, attention weights and the result are float32.
    """

    config: T5Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, ids: Int[Array, "batch tokens"], mask: Bool[Array, "batch tokens"]
    ) -> Float[Array, "batch tokens embed"]:
        c = self.config
        unit = nn.initializers.normal(1.0)
        embedding: Any = self.param(
            "token_embedding", nn.with_logical_partitioning(unit, ("vocab", "embed")), (c.vocab_size, c.width)
        )
        table: Any = self.param(
            "relative_bias", nn.with_logical_partitioning(unit, (None, "heads")), (c.buckets, c.heads)
        )
        relative = table.astype(jnp.float32)[relative_buckets(ids.shape[1], c.buckets, c.max_distance)]
        # Half of the lowest float, so that adding a bias and a score cannot overflow to -inf.
        hidden = jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min / 2)
        bias = rearrange(relative, "q k h -> 1 h q k") + hidden[:, None, None, :]
        layers = nn.scan(
            T5Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c, self.dtype, name="layers")
        x, _ = layers(constrain(embedding[ids].astype(self.dtype), _STATES), bias)
        return RMSNorm(jnp.float32, epsilon=c.epsilon, name="final_norm")(x)
