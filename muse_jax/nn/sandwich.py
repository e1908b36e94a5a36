"""CogView's transformer: layer norms before and after each branch, with a pluggable attention function.

Several streams of tokens can share the norms and MLP of a layer while each has attention weights of its own.
CogView2 builds its super-resolution networks from a trained CogLM in this way.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from muse_jax.nn.linear import EMBED_STD, Dense
from muse_jax.nn.norms import LayerNorm
from muse_jax.nn.transformer import MLP
from muse_jax.sharding.fsdp import constrain

QKV = tuple[Array, Array, Array]
"""Query, key and value of a stream, each `(batch, heads, tokens, head_dim)`."""
Attend = Callable[[tuple[QKV, ...], Any, Any], tuple[tuple[Array, ...], Any]]
"""(QKV of each stream, the layer's memory, inputs of all layers) -> (output of each stream, what to keep)."""


class Projections(nn.Module):
    """Projections of a stream to queries, keys and values, and back."""

    width: int
    heads: int
    dtype: Any = jnp.float32

    def setup(self):
        head_dim = self.width // self.heads
        names = ("embed", None, "heads", "kv")
        self.qkv = Dense((3, self.heads, head_dim), names, dtype=self.dtype)
        self.dense = Dense((self.width,), ("heads", "embed"), dtype=self.dtype)

    def split(self, x: Float[Array, "batch tokens width"]) -> QKV:
        query, key, value = rearrange(self.qkv(x), "b n parts h d -> parts b h n d")
        return query, key, value

    def join(self, x: Float[Array, "batch heads tokens head_dim"]) -> Float[Array, "batch tokens width"]:
        return self.dense(rearrange(x, "b h n d -> b n (h d)"))


class SandwichLayer(nn.Module):
    """Transformer layer with a norm before and after each branch (Sandwich-LN; CogView, section 2.4).

    Fields:
      width, heads, mlp_dim: sizes; `heads` divides `width`.
      streams: name of the attention weights of each stream; a repeated name is shared. All streams share the
        norms and the MLP.
      branch_scale: initial scale of the norms after the branches.
      dropout: rate on each residual branch, from the rng stream `dropout`.
      dtype: of the computation.
    """

    width: int
    heads: int
    mlp_dim: int
    streams: tuple[str, ...] = ("attention",)
    branch_scale: float = 1.0
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, xs: tuple[Array, ...], memory: Any, attend: Attend, shared: Any, deterministic: bool
    ) -> tuple[tuple[Array, ...], Any]:
        """Applies the layer to streams `(batch, tokens, width)`; also returns what `attend` keeps."""
        own = {
            name: Projections(self.width, self.heads, self.dtype, name=name)
            for name in dict.fromkeys(self.streams)
        }
        before = LayerNorm(1.0, self.dtype, name="attention_in")
        after = LayerNorm(self.branch_scale, self.dtype, name="attention_out")
        mlp_before = LayerNorm(1.0, self.dtype, name="mlp_in")
        mlp_after = LayerNorm(self.branch_scale, self.dtype, name="mlp_out")
        mlp = MLP(self.mlp_dim, dtype=self.dtype, name="mlp")
        drop = nn.Dropout(self.dropout, deterministic=deterministic)

        qkv = tuple(own[name].split(before(x)) for name, x in zip(self.streams, xs, strict=True))
        outs, kept = attend(qkv, memory, shared)
        xs = tuple(
            x + drop(after(own[name].join(y))) for name, x, y in zip(self.streams, xs, outs, strict=True)
        )
        xs = tuple(x + drop(mlp_after(mlp(mlp_before(x)))) for x in xs)
        return tuple(constrain(x, ("batch", None, None)) for x in xs), kept


class SandwichStack(nn.Module):
    """`depth` sandwich layers under one `nn.scan`, and a final norm; fields as in `SandwichLayer`."""

    depth: int
    width: int
    heads: int
    mlp_dim: int
    streams: tuple[str, ...] = ("attention",)
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        xs: tuple[Array, ...],
        attend: Attend,
        shared: Any,
        memory: Any = None,
        deterministic: bool = True,
    ) -> tuple[tuple[Array, ...], Any]:
        """Applies all layers; the first axis of `memory` and of the kept values is the layer."""
        layer = SandwichLayer
        if self.remat:
            layer = nn.remat(SandwichLayer, prevent_cse=False, static_argnums=(3, 5))
        layers = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=self.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(
            self.width,
            self.heads,
            self.mlp_dim,
            self.streams,
            # At first, the sum of all branches is as large as the embeddings of tokens and positions.
            EMBED_STD * self.depth**-0.5,
            self.dropout,
            self.dtype,
            name="layers",
        )
        xs, kept = layers(xs, memory, attend, shared, deterministic)
        norm = LayerNorm(1.0, self.dtype, name="final_norm")
        return tuple(norm(x) for x in xs), kept
