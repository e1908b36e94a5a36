"""MaskGIT's network: a bidirectional transformer over a class token and image tokens, as BERT's."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from muse_jax.nn.attention import attend
from muse_jax.nn.heads import LinearLogits, unembed

_EPSILON = 1e-12
_init = nn.initializers.truncated_normal(0.02)


def _norm(dtype: Any, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(_EPSILON, dtype=dtype, use_fast_variance=False, name=name)


class _Dense(nn.Module):
    """A matrix and a bias from the last `inputs` axes to `shape`; the axes of the matrix have names."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    dtype: Any
    inputs: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, given = x.shape[: -self.inputs], x.shape[-self.inputs :]
        named, zeros = nn.with_logical_partitioning, nn.initializers.zeros
        kernel: Any = self.param("kernel", named(_init, self.axes), (*given, *self.shape))
        bias: Any = self.param("bias", named(zeros, self.axes[self.inputs :]), self.shape)
        flat = kernel.reshape(math.prod(given), -1).astype(self.dtype)
        y = x.reshape(*batch, -1).astype(self.dtype) @ flat
        return y.reshape(*batch, *self.shape) + bias.astype(self.dtype)


class _Layer(nn.Module):
    """Self-attention and MLP, each followed by a norm of its sum with the skip."""

    heads: int
    mlp_dim: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], deterministic: bool) -> tuple[Float[Array, "b n d"], None]:
        width = x.shape[-1]
        drop = nn.Dropout(self.dropout, deterministic=deterministic)
        shape, axes = (self.heads, width // self.heads), ("embed", "heads", "kv")
        query, key, value = (
            _Dense(shape, axes, self.dtype, name=part)(x).swapaxes(1, 2) for part in ("query", "key", "value")
        )
        mixed = attend(query, key, value).swapaxes(1, 2)
        out = _Dense((width,), ("heads", "kv", "embed"), self.dtype, inputs=2, name="out")(mixed)
        x = _norm(self.dtype, "attention_norm")(drop(out) + x)
        hidden = nn.gelu(_Dense((self.mlp_dim,), ("embed", "mlp"), self.dtype, name="mlp_in")(x))
        out = _Dense((width,), ("mlp", "embed"), self.dtype, name="mlp_out")(hidden)
        return _norm(self.dtype, "mlp_norm")(drop(out) + x), None


class ClassTransformer(nn.Module):
    """Logits of every image token given the known ones and a class (Chang et al. 2022, section 3).

    The defaults are the released 256-pixel model's (174M parameters).

    Fields:
      vocab_size: codes of the tokenizer.
      num_classes: classes, which are tokens too; the id after them is the mask token.
      grid: height and width of the token grid.
      width, depth, heads, mlp_dim: sizes of the transformer; `heads` divides `width`.
      dropout: rate on embeddings and residual branches, from the rng stream `dropout`.
      remat: recompute activations in the backward pass.
      dtype: of the computation; parameters and logits are float32.
    """

    vocab_size: int = 1024
    num_classes: int = 1000
    grid: tuple[int, ...] = (16, 16)
    width: int = 768
    depth: int = 24
    heads: int = 16
    mlp_dim: int = 3072
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def num_tokens(self) -> int:
        """Length of the flat sequence of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def mask_id(self) -> int:
        """The id of a token that is still to be drawn."""
        return self.vocab_size + self.num_classes

    def example_inputs(self) -> tuple[Array, ...]:
        """Inputs of the smallest size, to initialize parameters with."""
        return jnp.zeros((1, self.num_tokens), jnp.int32), jnp.zeros(1, jnp.int32)

    def setup(self):
        table = nn.with_logical_partitioning(_init, ("vocab", "embed"))
        positions = nn.with_logical_partitioning(_init, (None, "embed"))
        bias = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
        self.embedding: Any = self.param("embedding", table, (self.mask_id + 1, self.width))
        self.positions: Any = self.param("positions", positions, (self.num_tokens + 1, self.width))
        self.input_norm = _norm(self.dtype, "input_norm")
        layer = nn.remat(_Layer, prevent_cse=False, static_argnums=(2,)) if self.remat else _Layer
        self.layers = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(self.heads, self.mlp_dim, self.dropout, self.dtype)
        self.input_dropout = nn.Dropout(self.dropout)
        self.head = _Dense((self.width,), ("embed", None), self.dtype)
        self.head_norm = _norm(self.dtype, "head_norm")
        self.bias: Any = self.param("bias", bias, (self.mask_id + 1,))

    def __call__(
        self, tokens: Int[Array, "b n"], classes: Int[Array, " b"], deterministic: bool = True
    ) -> Float[Array, "b n vocab"]:
        """Float32 logits over the `vocab_size` codes at every position; `tokens` may be `mask_id`."""
        return unembed(*self.linear_logits(tokens, classes, deterministic))

    def linear_logits(
        self, tokens: Int[Array, "b n"], classes: Int[Array, " b"], deterministic: bool = True
    ) -> LinearLogits:
        """The logits without the last product: samplers stream the vocabulary."""
        if tokens.shape[1] != self.num_tokens:
            raise ValueError(f"Got {tokens.shape[1]} tokens for a grid of {self.grid[0]}x{self.grid[1]}.")
        ids = jnp.concatenate([classes[:, None] + self.vocab_size, tokens], axis=1)
        x = self.input_norm((self.embedding[ids] + self.positions).astype(self.dtype))
        x, _ = self.layers(self.input_dropout(x, deterministic=deterministic), deterministic)
        hidden = self.head_norm(nn.gelu(self.head(x[:, 1:])))
        return LinearLogits(hidden, self.embedding[: self.vocab_size], self.bias[: self.vocab_size])
