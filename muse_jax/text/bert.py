"""BERT encoder (Devlin et al. 2018), the network of MiniLM-L6: post-norm, exact GELU, learned positions."""

from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

_normal = nn.initializers.normal(0.02)


def _dense(features: int, names: tuple[str, str], dtype: Any, name: str) -> nn.Dense:
    return nn.Dense(
        features,
        dtype=dtype,
        kernel_init=nn.with_logical_partitioning(_normal, names),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), names[-1:]),
        name=name,
    )


def _norm(epsilon: float, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(
        epsilon,
        dtype=jnp.float32,
        use_fast_variance=False,
        scale_init=nn.with_logical_partitioning(nn.initializers.ones_init(), ("embed",)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), ("embed",)),
        name=name,
    )


class BertLayer(nn.Module):
    """Transformer layer in the form that `nn.scan` takes: it returns (carry, None)."""

    heads: int
    mlp_dim: int
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens embed"], mask: Bool[Array, "batch tokens"]
    ) -> tuple[Array, None]:
        width = x.shape[-1]
        query, key, value = (
            rearrange(
                _dense(width, ("embed", "heads"), self.dtype, name)(x), "b t (h d) -> b t h d", h=self.heads
            )
            for name in ("query", "key", "value")
        )
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        logits = logits / jnp.sqrt(jnp.float32(width // self.heads))
        weights = nn.softmax(jnp.where(mask[:, None, None, :], logits, jnp.finfo(jnp.float32).min))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(self.dtype), value)
        mixed = rearrange(mixed, "b t h d -> b t (h d)")
        x = _norm(self.epsilon, "attention_norm")(
            x + _dense(width, ("heads", "embed"), self.dtype, "out")(mixed)
        )
        hidden = nn.gelu(_dense(self.mlp_dim, ("embed", "mlp"), self.dtype, "mlp_in")(x), approximate=False)
        x = _norm(self.epsilon, "mlp_norm")(
            x + _dense(width, ("mlp", "embed"), self.dtype, "mlp_out")(hidden)
        )
        return x, None


class BertEncoder(nn.Module):
    """BERT without the pooler; the defaults are the sizes of MiniLM-L6.

    Called with ids int32 (batch, tokens), at most `max_positions` tokens, and mask bool (batch, tokens), True
    on real tokens. Returns the states of the last layer, float32 (batch, tokens, width).
    """

    vocab_size: int = 30522
    width: int = 384
    depth: int = 6
    heads: int = 12
    mlp_dim: int = 1536
    max_positions: int = 512
    epsilon: float = 1e-12
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, ids: Int[Array, "batch tokens"], mask: Bool[Array, "batch tokens"]
    ) -> Float[Array, "batch tokens embed"]:
        table = nn.with_logical_partitioning(_normal, ("vocab", "embed"))
        plain = nn.with_logical_partitioning(_normal, (None, "embed"))
        words: Any = self.param("word_embedding", table, (self.vocab_size, self.width))
        positions: Any = self.param("position_embedding", plain, (self.max_positions, self.width))
        types: Any = self.param("type_embedding", plain, (2, self.width))
        # A prompt is one segment: all tokens have type 0.
        x = words[ids].astype(jnp.float32) + positions[: ids.shape[1]] + types[0]
        x = _norm(self.epsilon, "embedding_norm")(x)
        layers = nn.scan(
            BertLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(self.heads, self.mlp_dim, self.epsilon, self.dtype, name="layers")
        x, _ = layers(x, mask)
        return x.astype(jnp.float32)
