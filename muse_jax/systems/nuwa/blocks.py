"""Layers of NUWA: nearby self-attention, attention to the conditions, GEGLU, one after the other.

The paper sums both attentions, of the same input; its authors' later code (NUWA-LIP, MIT licence) has them in
sequence, with LayerScale, and so do these layers: 20 (width^2 + width) parameters with an MLP of 4 widths.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from muse_jax.nn.linear import Dense
from muse_jax.nn.nearby import (
    Context,
    Windows,
    attend_places,
    attend_places_to_context,
    attend_to_context,
    attend_windows,
)
from muse_jax.nn.norms import LayerNorm
from muse_jax.nn.transformer import gelu
from muse_jax.sharding.fsdp import constrain


@struct.dataclass
class Conditions:
    """States that the decoder attends to.

    Fields:
      text: (batch, text, width).
      mask: True for real text tokens.
      states: of a condition on `grid`, (batch, places, width); None without one.
    """

    text: Float[Array, "batch text width"]
    mask: Bool[Array, "batch text"]
    states: Float[Array, "batch places width"] | None = None
    grid: tuple[int, ...] = struct.field(pytree_node=False, default=())


@struct.dataclass
class Whole:
    """A pass over all places of `grid`; without conditions the layers have no cross-attention."""

    grid: tuple[int, ...] = struct.field(pytree_node=False)
    windows: Windows = struct.field(pytree_node=False)
    causal: bool = struct.field(pytree_node=False)
    conditions: Conditions | None = None


@struct.dataclass
class Places:
    """A pass over a few places; the layers' memory is the cached keys and values and the `Context`.

    Fields:
      seen: the slots of the cache that each place sees.
      index, context_seen: the neighbors on the condition's grid.
    """

    seen: Bool[Array, "places slots"]
    index: Int[Array, "places key_window"] | None = None
    context_seen: Bool[Array, "places key_window"] | None = None


class Affine(nn.Module):
    """`Dense` with a bias."""

    features: tuple[int, ...]
    names: tuple[str | None, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "..."]:
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, self.names[1:])
        bias: Any = self.param("bias", zeros, self.features)
        return Dense(self.features, self.names, dtype=self.dtype, name="dense")(x) + bias.astype(self.dtype)


class NuwaLayer(nn.Module):
    """One layer; fields as of `NuwaStack`."""

    width: int
    heads: int
    mlp_dim: int
    cross: bool
    layer_scale: float
    dropout: float
    dtype: Any

    def setup(self):
        heads = (self.heads, self.width // self.heads)
        names = ("embed", None, "heads", "kv")
        self.self_norm = LayerNorm(dtype=self.dtype)
        self.qkv = Dense((3, *heads), names, dtype=self.dtype)
        self.self_out = Affine((self.width,), ("heads", "embed"), self.dtype)
        if self.cross:
            self.cross_norm = LayerNorm(dtype=self.dtype)
            self.query = Dense((1, *heads), names, dtype=self.dtype)
            self.key_value = Dense((2, *heads), names, dtype=self.dtype)
            self.cross_out = Affine((self.width,), ("heads", "embed"), self.dtype)
        self.mlp_norm = LayerNorm(dtype=self.dtype)
        self.up = Affine((2, self.mlp_dim), ("embed", None, "mlp"), self.dtype)
        self.down = Affine((self.width,), ("mlp", "embed"), self.dtype)
        scale = nn.with_logical_partitioning(nn.initializers.constant(self.layer_scale), (None, "embed"))
        self.scales = self.param("layer_scale", scale, (3 if self.cross else 2, self.width))
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self, x: Array, memory: Any, how: Whole | Places | Conditions, deterministic: bool
    ) -> tuple[Array, Any]:
        """Applies the layer: to all places, to a few, or, of `Conditions`, only makes their `Context`.

        Also returns what a cache keeps: of a few places their keys and values, of conditions the context.
        """
        if isinstance(how, Conditions):
            return x, self.context(how)

        def residual(x: Array, branch: Array, number: int) -> Array:
            scale = self.scales[number].astype(self.dtype)
            return x + scale * self.drop(branch, deterministic=deterministic)

        query, key, value = jnp.moveaxis(self.qkv(self.self_norm(x)), 2, 0)
        if isinstance(how, Whole):
            mixed = attend_windows(query, key, value, grid=how.grid, windows=how.windows, causal=how.causal)
        else:
            earlier, context = memory
            mixed = attend_places(query, (key, value), earlier, how.seen)
        x = residual(x, self.self_out(_flat(mixed)), 0)
        if self.cross:
            query = self.query(self.cross_norm(x))[:, :, 0]
            if isinstance(how, Whole):
                assert how.conditions is not None
                mixed = attend_to_context(query, self.context(how.conditions), how.grid, how.windows)
            else:
                mixed = attend_places_to_context(query, context, how.index, how.context_seen)
            x = residual(x, self.cross_out(_flat(mixed)), 1)
        gate, hidden = jnp.moveaxis(self.up(self.mlp_norm(x)), 2, 0)
        x = residual(x, self.down(gelu(gate) * hidden), 2 if self.cross else 1)
        return constrain(x, ("batch", None, None)), (key, value) if isinstance(how, Places) else None

    def context(self, conditions: Conditions) -> Context:
        """Keys and values of the conditions."""

        def split(states: Array) -> tuple[Array, Array]:
            key, value = jnp.moveaxis(self.key_value(states), 2, 0)
            return key, value

        states = None if conditions.states is None else split(conditions.states)
        return Context(split(conditions.text), conditions.mask, states, conditions.grid)


class NuwaStack(nn.Module):
    """`depth` layers under one `nn.scan`.

    Fields:
      width, heads, mlp_dim: sizes; `heads` divides `width`.
      cross: whether the layers attend to conditions.
      layer_scale: initial scale of the branches (LayerScale, Touvron et al. 2021).
      dropout: rate on each residual branch, from the rng stream `dropout`.
      remat: recompute a layer's activations in the backward pass.
      dtype: of the computation.
    """

    depth: int
    width: int
    heads: int
    mlp_dim: int
    cross: bool = True
    layer_scale: float = 0.1
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, how: Whole | Places | Conditions, memory: Any = None, deterministic: bool = True
    ) -> tuple[Array, Any]:
        """Applies all layers; the first axis of `memory` and of what is kept is the layer."""
        layer = NuwaLayer
        if self.remat:
            layer = nn.remat(NuwaLayer, prevent_cse=False, static_argnums=(4,))
        layers = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=self.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(
            self.width,
            self.heads,
            self.mlp_dim,
            self.cross,
            self.layer_scale,
            self.dropout,
            self.dtype,
            name="layers",
        )
        return layers(x, memory, how, deterministic)


def _flat(x: Float[Array, "batch places heads dim"]) -> Float[Array, "batch places width"]:
    return x.reshape(*x.shape[:2], -1)
