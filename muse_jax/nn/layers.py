"""The transformer parts that the token networks share.

Everything here works on `(batch, tokens, width)`, keeps its parameters in float32 under logical axis names
(`embed`, `mlp`, `heads`, `kv`, `vocab`, `layers`), computes in `dtype`, and takes norms and softmaxes in
float32. Dense layers inside a block carry no bias, as in T5.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from muse_jax.sharding.fsdp import constrain, gather

_NEGATIVE = -1e9  # finite, so that a row with nothing to attend to stays a number
EMBED_STD = 0.02
_GELU = math.sqrt(2 / math.pi)

Layout = tuple[Callable[[Array], Array], Callable[[Array], Array]]


def _init(init: Callable, *names: str | None) -> Callable:
    return nn.with_logical_partitioning(init, names)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation of the last axis (logical name `axis_name`) with a learned scale."""

    dtype: Any = jnp.float32
    axis_name: str = "embed"

    @nn.compact
    def __call__(self, x: Float[Array, "... features"]) -> Float[Array, "... features"]:
        scale = self.param("scale", _init(nn.initializers.ones, self.axis_name), (x.shape[-1],))
        x = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        return (x * inverse * scale).astype(self.dtype)


@jax.custom_vjp
def project(x: Float[Array, "... inputs"], kernel: Float[Array, "inputs *outputs"]) -> Float[Array, "..."]:
    """`x @ kernel`, whose kernel gradient transposes the narrower of its two factors.

    JAX's own always transposes the output's cotangent. XLA on a CPU merges that with whatever produces it and
    then reads memory with a stride: in a wide layer it took as long as all the matrix products of the block.
    Output axes (parts, heads, ...) stay apart: merged, a cut along the heads is lost, and XLA gathers them.
    """
    return jnp.tensordot(x, kernel, 1)


def _project_backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    rows = rearrange(x, "... d -> (...) d")
    columns = cotangent.reshape(len(rows), *kernel.shape[1:])
    if rows.shape[-1] <= math.prod(kernel.shape[1:]):
        grad = jnp.tensordot(rows, columns, (0, 0))
    else:
        grad = jnp.moveaxis(jnp.tensordot(columns, rows, (0, 0)), -1, 0)
    outputs = range(1, kernel.ndim)
    back = jnp.tensordot(cotangent, kernel, ([axis - kernel.ndim for axis in outputs], list(outputs)))
    return back, grad


project.defvjp(lambda x, kernel: (project(x, kernel), (x, kernel)), _project_backward)


class Dense(nn.Module):
    """A linear layer without bias from the last axis to `features`; `names` are the kernel's logical axes."""

    features: tuple[int, ...]
    names: tuple[str | None, ...]
    scale: float = 1.0  # of the initial kernel, relative to inputs ** -0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "..."]:
        inputs = x.shape[-1]
        outputs = math.prod(self.features)
        init = nn.initializers.variance_scaling(self.scale**2, "fan_in", "truncated_normal")

        def flat_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
            return init(key, (inputs, outputs), dtype).reshape(shape)

        kernel = self.param("kernel", _init(flat_init, *self.names), (inputs, *self.features))
        return project(x.astype(self.dtype), gather(kernel.astype(self.dtype), self.names))


def attend(
    query: Float[Array, "batch heads queries kv"],
    key: Float[Array, "batch heads keys kv"],
    value: Float[Array, "batch heads keys kv"],
    mask: Bool[Array, "batch keys"] | None = None,
) -> Float[Array, "batch heads queries kv"]:
    """Softmax attention. Keys where `mask` is False have no weight; a row without any key gives zeros.

    Heads come before tokens so that both products are plain batched matrix products: XLA on a CPU is about
    twice as fast with them. The division by the softmax's sum waits until after the product with the values.
    """
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    logits = logits * query.shape[-1] ** -0.5
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, _NEGATIVE)
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
    """Multi-head attention of `x` to `context`, or to itself; queries and keys are RMS-normalised per head.

    Normalised queries and keys bound the logits, which keeps wide and deep models stable in bfloat16.
    `out_scale` shrinks the initial output projection (residual branches of deep stacks).
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


@jax.custom_vjp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU in its tanh form, `x (1 + tanh(u)) / 2` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`.

    It keeps its input alone for the backward pass, where autodiff would keep five arrays of the widest kind.
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
    """Dense to `mlp_dim`, GELU (tanh form), dense back."""

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

    `layout = (split, join)` regroups the tokens for self-attention alone: `split` takes
    `(batch, tokens, width)` to `(batch * groups, tokens / groups, width)`, attention stays inside a group,
    and `join` undoes the split.
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
    """One step of the scan: as many blocks as there are layouts."""

    block: dict[str, Any]
    layouts: tuple[Layout | None, ...]

    @nn.compact
    def __call__(self, x, context, mask, deterministic):
        for i, layout in enumerate(self.layouts):
            x = Block(**self.block, name=f"block_{i}")(x, context, mask, deterministic, layout)
        return x, None


class Transformer(nn.Module):
    """`depth` blocks under one `nn.scan`, so compile time does not grow with depth, and a last norm.

    The blocks go through `layouts` in turn; `depth` must be a multiple of their number. `remat` recomputes a
    step's activations in the backward pass, which saves memory for about a third more compute.
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


class TextProjection(nn.Module):
    """Frozen text states to the transformer's width, normalised so that any encoder's scale will do."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text: Float[Array, "batch text text_dim"]) -> Float[Array, "batch text width"]:
        text = Dense((self.width,), (None, "embed"), dtype=self.dtype, name="dense")(text)
        return RMSNorm(self.dtype, name="norm")(text)


class HeadTransform(nn.Module):
    """MaskGIT's head up to the tied table: dense, GELU, norm."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        x = Dense((x.shape[-1],), ("embed", None), dtype=self.dtype, name="dense")(x)
        return RMSNorm(self.dtype, name="norm")(gelu(x))


class LinearLogits(NamedTuple):
    """Logits that are not multiplied out: `unembed(hidden, table, bias)`."""

    hidden: Float[Array, "batch tokens width"]
    table: Float[Array, "vocab width"]
    bias: Float[Array, " vocab"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the logits."""
        return (*self.hidden.shape[:-1], self.table.shape[0])


def unembed(
    hidden: Float[Array, "batch positions width"],
    table: Float[Array, "*groups vocab width"],
    bias: Float[Array, "*groups vocab"],
) -> Float[Array, "batch tokens vocab"]:
    """Float32 logits of the codes: `hidden @ table.T + bias`, with several tables those of each in turn."""
    table = table.astype(hidden.dtype)
    if table.ndim == 2:
        return jnp.einsum("bnd,vd->bnv", hidden, table, preferred_element_type=jnp.float32) + bias
    logits = jnp.einsum("bnd,gvd->bngv", hidden, table, preferred_element_type=jnp.float32) + bias
    return rearrange(logits, "b n g v -> b (n g) v")


def check_width(width: int, heads: int) -> None:
    """Raises ValueError when `heads` does not divide `width`."""
    if width % heads:
        raise ValueError(
            f"width {width} does not split into {heads} heads; choose heads that divide the width."
        )


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
