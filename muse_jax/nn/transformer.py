"""Pre-norm transformer whose layers repeat under one scan.

The modules work on `(batch, tokens, width)`, keep float32 parameters under logical axis names (`embed`,
`mlp`, `heads`, `kv`, `vocab`, `layers`), compute in `dtype`, and take norms and softmaxes in float32. Dense
layers have no bias, as in T5.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from muse_jax.nn.attention import Attention
from muse_jax.nn.layouts import Layout
from muse_jax.nn.linear import Dense
from muse_jax.nn.norms import RMSNorm
from muse_jax.sharding.fsdp import constrain

_GELU = math.sqrt(2 / math.pi)


@jax.custom_vjp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU in its tanh form, `x (1 + tanh(u)) / 2` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`.

    The backward pass recomputes from the input; autodiff would keep five arrays of the layer's widest kind.
    """
    return nn.gelu(x, approximate=True)


def _gelu_backward(x: Array, cotangent: Array) -> tuple[Array]:
    wide = x.astype(jnp.float32)
    square = jnp.square(wide)
    tanh = jnp.tanh(_GELU * wide * (1 + 0.044715 * square))
    slope = 0.5 * (1 + tanh) + 0.5 * wide * (1 - jnp.square(tanh)) * _GELU * (1 + 3 * 0.044715 * square)
    return ((cotangent * slope).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


class MLP(nn.Module):
    """Dense to `mlp_dim`, GELU (tanh form), dense back; `out_scale` as in `Attention`."""

    mlp_dim: int
    out_scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        width = x.shape[-1]
        x = gelu(Dense((self.mlp_dim,), ("embed", "mlp"), dtype=self.dtype, name="up")(x))
        return Dense((width,), ("mlp", "embed"), self.out_scale, self.dtype, name="down")(x)


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, cross-attention (when there is a context), MLP.

    Fields:
      heads, mlp_dim: sizes; `heads` divides the width.
      dropout: rate on each residual branch, from the rng stream `dropout`.
      out_scale: relative scale of the initial output projections of all branches.
      dtype: of the computation.
    """

    heads: int
    mlp_dim: int
    dropout: float = 0.0
    out_scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        context: Float[Array, "batch keys width"] | None,
        mask: Bool[Array, "batch keys"] | None,
        deterministic: bool,
        layout: Layout | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Applies the block; `layout` confines self-attention to groups of tokens."""
        split, join = layout or (lambda x: x, lambda x: x)
        attention = {"heads": self.heads, "out_scale": self.out_scale, "dtype": self.dtype}

        def residual(x: Array, branch: Array) -> Array:
            return x + nn.Dropout(self.dropout)(branch, deterministic=deterministic)

        y = split(RMSNorm(self.dtype, name="self_norm")(x))
        x = residual(x, join(Attention(**attention, name="self_attention")(y)))
        if context is not None:
            y = RMSNorm(self.dtype, name="cross_norm")(x)
            x = residual(x, Attention(**attention, name="cross_attention")(y, context, mask))
        y = RMSNorm(self.dtype, name="mlp_norm")(x)
        x = residual(x, MLP(self.mlp_dim, self.out_scale, self.dtype, name="mlp")(y))
        return constrain(x, ("batch", None, None))


class _Step(nn.Module):
    """One step of the scan: one block for each layout."""

    block: dict[str, Any]
    layouts: tuple[Layout | None, ...]

    @nn.compact
    def __call__(self, x, context, mask, deterministic):
        for i, layout in enumerate(self.layouts):
            x = Block(**self.block, name=f"block_{i}")(x, context, mask, deterministic, layout)
        return x, None


class Transformer(nn.Module):
    """`depth` blocks and a final norm. The blocks run under one `nn.scan`: compile time is that of one step.

    Fields:
      depth: number of blocks, a multiple of the number of `layouts`.
      heads, mlp_dim, dropout: see `Block`.
      remat: recompute a step's activations in the backward pass; saves memory for a third more compute.
      layouts: self-attention layouts, which the blocks use in turn; None is full attention.
      dtype: of the computation.
    """

    depth: int
    heads: int
    mlp_dim: int
    dropout: float = 0.0
    remat: bool = False
    layouts: tuple[Layout | None, ...] = (None,)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        context: Float[Array, "batch keys width"] | None = None,
        mask: Bool[Array, "batch keys"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "batch tokens width"]:
        step = nn.remat(_Step, prevent_cse=False, static_argnums=(4,)) if self.remat else _Step
        layers = nn.scan(
            step,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.depth // len(self.layouts),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        branches = self.depth * (2 if context is None else 3)
        block = {
            "heads": self.heads,
            "mlp_dim": self.mlp_dim,
            "dropout": self.dropout,
            "out_scale": branches**-0.5,
            "dtype": self.dtype,
        }
        x, _ = layers(block, self.layouts, name="layers")(x, context, mask, deterministic)
        return RMSNorm(self.dtype, name="final_norm")(x)
