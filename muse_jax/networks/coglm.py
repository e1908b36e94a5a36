"""CogLM: one transformer that reads and predicts text pieces and image codes alike (CogView2, section 3.1).

What may see what is said by one integer a token, its *rank*: a token sees those of its own rank and of lower
ones, and a negative rank is absent. Tokens of one rank are context that sees itself both ways; ranks that
grow by one are a causal region. `muse_jax.networks.coglm_sequence` makes the ranks.

`SandwichLayer` and `Projections` serve the super-resolution networks too: there several streams share a
layer's norms and MLP, and each may have its own attention weights.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from muse_jax.networks.layers import EMBED_STD, MLP, Dense, check_width, unembed

_ABSENT = -1e9

QKV = tuple[Array, Array, Array]
"""Query, key and value of a stream, each (batch, heads, tokens, head_dim)."""
Attend = Callable[[tuple[QKV, ...], Any, Any], tuple[tuple[Array, ...], Any]]
"""(qkv of each stream, a layer's memory, what all layers share) -> (results of each stream, what to keep)."""


def visible(
    query_ranks: Int[Array, "batch queries"], key_ranks: Int[Array, "batch keys"]
) -> Bool[Array, "batch queries keys"]:
    """The attention rule: keys that are there and of no higher rank than the query."""
    keys = key_ranks[:, None, :]
    return (keys >= 0) & (keys <= query_ranks[:, :, None])


@struct.dataclass
class Ranks:
    """What attention by rank needs besides queries, keys and values."""

    query: Int[Array, "batch queries"]
    key: Int[Array, "batch keys"]
    weight: Float[Array, "batch keys"] | Float[Array, ""]
    """Added to the logits of each key (`attn_plus`)."""


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
    """Attention of one stream to itself by the rule of `visible`; nothing is kept."""
    ((query, key, value),) = streams
    logits = _logits(query, key, visible(ranks.query, ranks.key), ranks.weight)
    return (_mix(jax.nn.softmax(logits), value).astype(value.dtype),), None


def remember(streams: tuple[QKV, ...], memory: None, ranks: Ranks) -> tuple[tuple[Array, ...], Any]:
    """`attend_by_rank` that keeps the keys and values."""
    _, key, value = streams[0]
    return attend_by_rank(streams, memory, ranks)[0], (key, value)


def attend_to_memory(
    streams: tuple[QKV, ...], memory: tuple[Array, Array], ranks: Ranks
) -> tuple[tuple[Array, ...], Any]:
    """Attention of one new token to the remembered ones and to itself; its own key and value are kept.

    The memory is only read: the caller writes the new token of all layers at once, in place.
    """
    ((query, key, value),) = streams
    old_key, old_value = memory
    old = _logits(query, old_key, visible(ranks.query, ranks.key), ranks.weight)
    itself = _logits(query, key, jnp.ones((len(query), 1, 1), bool), jnp.float32(0))
    weights = jax.nn.softmax(jnp.concatenate([old, itself], axis=-1))
    out = _mix(weights[..., :-1], old_value) + _mix(weights[..., -1:], value)
    return (out.astype(value.dtype),), (key, value)


class LayerNorm(nn.Module):
    """Layer normalisation in float32 with scale and bias; `scale` is the initial scale."""

    scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        constant = nn.initializers.constant(self.scale)
        return nn.LayerNorm(
            epsilon=1e-5,
            dtype=self.dtype,
            scale_init=nn.with_logical_partitioning(constant, ("embed",)),
            bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)),
            name="norm",
        )(x)


class Projections(nn.Module):
    """A stream's attention weights: to queries, keys and values, and back."""

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
    """A transformer layer with a norm before and one after each branch (Sandwich-LN; CogView, section 2.4).

    `streams` names the attention weights of each stream of tokens; a name given twice is shared. Norms and
    the MLP are one for all. `branch_scale` is the initial scale of the norms behind the branches.
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
        """`xs` are (batch, tokens, width); returns them and what `attend` keeps of this layer."""
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
        xs = tuple(x + drop(after(own[name].join(y))) for name, x, y in zip(self.streams, xs, outs))
        xs = tuple(x + drop(mlp_after(mlp(mlp_before(x)))) for x in xs)
        return tuple(nn.with_logical_constraint(x, ("batch", None, None)) for x in xs), kept


class SandwichStack(nn.Module):
    """`depth` sandwich layers under one `nn.scan`, and a norm at the end."""

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
        """The leaves of `memory` have the layers as first axis; so has what comes back beside the states."""
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
            # All branches together start as large as the embeddings of tokens and positions.
            EMBED_STD * self.depth**-0.5,
            self.dropout,
            self.dtype,
            name="layers",
        )
        xs, kept = layers(xs, memory, attend, shared, deterministic)
        norm = LayerNorm(1.0, self.dtype, name="final_norm")
        return tuple(norm(x) for x in xs), kept


@struct.dataclass
class KVCache:
    """What CogLM remembers of the tokens it has read; `slots` are their places in the sequence."""

    key: Float[Array, "depth batch heads slots head_dim"]
    value: Float[Array, "depth batch heads slots head_dim"]
    ranks: Int[Array, "batch slots"]
    """-1 where nothing was read yet."""
    weight: Float[Array, "batch slots"]
    """Added to the attention logits of each slot."""


class CogLM(nn.Module):
    """Logits of the next token for text pieces and image codes in one vocabulary (CogView2, section 3.1).

    Every sequence is laid out as [text, `<start_of_image>`, image tokens row by row]; a sample that lacks a
    part has it with ranks of -1. Text positions count from 0 and the image's from `image_position`, which is
    that of `<start_of_image>`.

    Fields:
      vocab_size: rows of the table: image codes, text pieces, special tokens (`coglm_sequence.Vocabulary`).
      grid: height and width of the image's tokens.
      text_length: text slots of a sequence, the start token of a caption included.
      image_position: at least `text_length`; the published model has 512 for 111 text slots.
      width, depth, heads, mlp_dim: sizes of the transformer; `heads` divides `width`.
      dropout: rate on embeddings and residual branches, from the rng stream `dropout`.
      remat: recompute activations in the backward pass.
      dtype: of the computation; parameters, norms, softmaxes and logits are float32.
    """

    vocab_size: int
    grid: tuple[int, int] = (20, 20)
    text_length: int = 111
    image_position: int = 512
    width: int = 3072
    depth: int = 48
    heads: int = 48
    mlp_dim: int = 12288
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def image_tokens(self) -> int:
        """Tokens of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def length(self) -> int:
        """Slots of a sequence."""
        return self.text_length + 1 + self.image_tokens

    def setup(self):
        check_width(self.width, self.heads)
        if self.image_position < self.text_length:
            raise ValueError(
                f"image_position is {self.image_position}, but the text takes the positions up to "
                f"{self.text_length - 1}; set it to {self.text_length} or more."
            )
        normal = nn.initializers.normal(EMBED_STD)
        table = nn.with_logical_partitioning(normal, ("vocab", "embed"))
        positions = nn.with_logical_partitioning(normal, (None, "embed"))
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
        self.embedding = self.param("embedding", table, (self.vocab_size, self.width))
        rows = self.image_position + 1 + self.image_tokens
        self.positions = self.param("position_embedding", positions, (rows, self.width))
        self.bias = self.param("bias", zeros, (self.vocab_size,))
        self.drop = nn.Dropout(self.dropout)
        self.transformer = SandwichStack(
            self.depth,
            self.width,
            self.heads,
            self.mlp_dim,
            dropout=self.dropout,
            remat=self.remat,
            dtype=self.dtype,
        )

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        ranks: Int[Array, "batch length"],
        deterministic: bool = True,
    ) -> Float[Array, "batch length vocab"]:
        """Float32 logits of the token after each one. Raises ValueError for shapes that do not fit."""
        return self.logits(self.hidden(tokens, ranks, deterministic=deterministic))

    def hidden(
        self,
        tokens: Int[Array, "batch length"],
        ranks: Int[Array, "batch length"],
        weight: Float[Array, "batch length"] | float = 0.0,
        deterministic: bool = True,
    ) -> Float[Array, "batch length width"]:
        """What the output table is multiplied with. `weight` joins the attention logits of each token."""
        return self._read(tokens, ranks, weight, attend_by_rank, deterministic)[0]

    def read(
        self,
        tokens: Int[Array, "batch length"],
        ranks: Int[Array, "batch length"],
        weight: Float[Array, "batch length"] | float = 0.0,
    ) -> KVCache:
        """Reads a sequence in one pass; slots of rank -1 are to be written by `extend`."""
        _, (key, value) = self._read(tokens, ranks, weight, remember, True)
        weight = jnp.broadcast_to(jnp.asarray(weight, jnp.float32), ranks.shape)
        return KVCache(key, value, ranks, weight)

    def _read(self, tokens, ranks, weight, attend, deterministic):
        self._check(tokens, ranks)
        slots = jnp.broadcast_to(jnp.arange(self.length), tokens.shape)
        x = self.drop(self._embed(tokens, slots), deterministic=deterministic)
        shared = Ranks(ranks, ranks, jnp.asarray(weight, jnp.float32))
        (x,), kept = self.transformer((x,), attend, shared, None, deterministic)
        return x, kept

    def extend(
        self,
        token: Int[Array, "batch"],
        slot: Int[Array, "batch"],
        rank: Int[Array, "batch"],
        cache: KVCache,
    ) -> tuple[Float[Array, "batch width"], KVCache]:
        """`hidden` of one more token of each sample, at `slot` and of rank `rank`, and the cache with it.

        It sees what the cache holds up to its rank, and itself. A slot is written once.
        """
        x = self._embed(token[:, None], slot[:, None])
        ranks = Ranks(rank[:, None], cache.ranks, cache.weight)
        memory = (cache.key, cache.value)
        (x,), (key, value) = self.transformer((x,), attend_to_memory, ranks, memory)
        sample = jnp.arange(len(token))
        cache = cache.replace(  # type: ignore[attr-defined]
            key=cache.key.at[:, sample, :, slot].set(rearrange(key, "l b h 1 d -> b l h d")),
            value=cache.value.at[:, sample, :, slot].set(rearrange(value, "l b h 1 d -> b l h d")),
            ranks=cache.ranks.at[sample, slot].set(rank),
        )
        return x[:, 0], cache

    def _embed(self, tokens: Array, slots: Array) -> Array:
        positions = jnp.where(slots < self.text_length, slots, slots - self.text_length + self.image_position)
        return (self.embedding[tokens] + self.positions[positions]).astype(self.dtype)

    def _check(self, tokens: Array, ranks: Array) -> None:
        for name, value in (("tokens", tokens), ("ranks", ranks)):
            if value.ndim != 2 or value.shape[1] != self.length:
                raise ValueError(
                    f"{name} has shape {value.shape}, but sequences of {self.text_length} text slots, "
                    f"<start_of_image> and {self.grid[0]}x{self.grid[1]} image tokens are "
                    f"(batch, {self.length}); make them with muse_jax.networks.coglm_sequence."
                )

    def output_embedding(
        self, first: int = 0, count: int | None = None
    ) -> tuple[Float[Array, "rows width"], Float[Array, " rows"]]:
        """`count` rows (None: all further ones) of the output table and bias from the token `first` on."""
        rows = slice(first, None if count is None else first + count)
        return self.embedding[rows], self.bias[rows]

    def logits(
        self, hidden: Float[Array, "batch length width"], first: int = 0, count: int | None = None
    ) -> Float[Array, "batch length rows"]:
        """Float32 logits from `hidden`, of those rows of the vocabulary alone."""
        return unembed(hidden, *self.output_embedding(first, count))

    def cross_entropy(
        self, hidden: Float[Array, "batch length width"], labels: Int[Array, "batch length"]
    ) -> Float[Array, "batch length"]:
        """`-log p(label)` in nats over the whole vocabulary, whose logits are never held all at once."""
        return large_vocab_cross_entropy(hidden, *self.output_embedding(), labels)


def large_vocab_cross_entropy(hidden, table, bias, targets):
    logits = unembed(hidden, table, bias)
    hit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - hit


def tile_positions(
    table: Float[Array, "tokens width"], grid: tuple[int, int], factor: int
) -> Float[Array, "fine width"]:
    """Positions of a grid `factor` times as fine: the table of `grid` laid side by side (CogView2, 3.2)."""
    tiled = jnp.tile(rearrange(table, "(h w) d -> h w d", h=grid[0], w=grid[1]), (factor, factor, 1))
    return rearrange(tiled, "h w d -> (h w) d")
