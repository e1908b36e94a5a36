"""CogLM: one transformer that reads and predicts text pieces and image codes (CogView2, section 3.1)."""

from typing import Any, ClassVar

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from muse_jax.nn.attention import check_width
from muse_jax.nn.heads import unembed
from muse_jax.nn.linear import EMBED_STD
from muse_jax.nn.rank_attention import Ranks, attend_by_rank, attend_to_memory, remember
from muse_jax.nn.sandwich import SandwichStack
from pallas_kernels.cross_entropy import large_vocab_cross_entropy


@struct.dataclass
class KVCache:
    """Keys and values of the tokens that CogLM has read, by their slots in the sequence."""

    key: Float[Array, "depth batch heads slots head_dim"]
    value: Float[Array, "depth batch heads slots head_dim"]
    ranks: Int[Array, "batch slots"]
    """-1 for slots that have not been read."""
    weight: Float[Array, "batch slots"]
    """Added to the attention logits of each slot."""


class CogLMBase(nn.Module):
    """Base of CogLM and its super-resolution networks: tables and layers (CogView2, section 3).

    Text positions start at 0, image positions at `image_position`, which is that of `<start_of_image>`.

    Fields:
      vocab_size: rows of the table: image codes, text pieces, special tokens (`sequences.Vocabulary`).
      grid: height and width of the grid of image tokens.
      text_length: number of text slots of a sequence.
      image_position: at least `text_length`; the published model has 512 with 111 text slots.
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

    streams: ClassVar[tuple[str, ...]] = ("attention",)
    """Name of the attention weights of each stream of tokens, see `SandwichLayer`."""

    @property
    def image_tokens(self) -> int:
        """Number of tokens of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def length(self) -> int:
        """Number of slots of a sequence."""
        return self.text_length + 1 + self.image_tokens

    @property
    def text_pieces(self) -> int:
        """Maximum number of pieces of a text; one slot is reserved for the start token of a caption."""
        return self.text_length - 1

    def example_inputs(self) -> tuple[Array, ...]:
        """Smallest inputs, for initialization."""
        tokens = jnp.zeros((1, self.length), jnp.int32)
        return tokens, tokens

    def setup(self):
        check_width(self.width, self.heads)
        if self.image_position < self.text_length:
            raise ValueError(
                f"image_position is {self.image_position}, but the text uses the positions up to "
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
            streams=self.streams,
            dropout=self.dropout,
            remat=self.remat,
            dtype=self.dtype,
        )

    def _embed(self, tokens: Array, slots: Array) -> Array:
        positions = jnp.where(slots < self.text_length, slots, slots - self.text_length + self.image_position)
        return (self.embedding[tokens] + self.positions[positions]).astype(self.dtype)

    def _check(self, tokens: Array, ranks: Array) -> None:
        for name, value in (("tokens", tokens), ("ranks", ranks)):
            if value.ndim != 2 or value.shape[1] != self.length:
                raise ValueError(
                    f"{name} has shape {value.shape}, but sequences of {self.text_length} text slots, "
                    f"<start_of_image> and {self.grid[0]}x{self.grid[1]} image tokens are "
                    f"(batch, {self.length}); make them with muse_jax.systems.cogview2.sequences."
                )

    def output_embedding(
        self, first: int = 0, count: int | None = None
    ) -> tuple[Float[Array, "rows width"], Float[Array, " rows"]]:
        """`count` rows of the output table and bias, starting at `first`; None: all remaining rows."""
        rows = slice(first, None if count is None else first + count)
        return self.embedding[rows], self.bias[rows]

    def logits(
        self, hidden: Float[Array, "batch length width"], first: int = 0, count: int | None = None
    ) -> Float[Array, "batch length rows"]:
        """Float32 logits from `hidden` for these rows of the vocabulary (see `output_embedding`)."""
        return unembed(hidden, *self.output_embedding(first, count))

    def cross_entropy(
        self, hidden: Float[Array, "batch length width"], labels: Int[Array, "batch length"]
    ) -> Float[Array, "batch length"]:
        """`-log p(label)` in nats over the whole vocabulary, without storing all logits at once."""
        return large_vocab_cross_entropy(hidden, *self.output_embedding(), labels)


class CogLM(CogLMBase):
    """Logits of the next token for text pieces and image codes in one vocabulary (CogView2, section 3.1).

    Every sequence has the layout [text, `<start_of_image>`, image tokens row by row]; parts that a sample
    lacks have ranks of -1. Fields are those of `CogLMBase`.
    """

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        ranks: Int[Array, "batch length"],
        deterministic: bool = True,
    ) -> Float[Array, "batch length vocab"]:
        """Float32 logits of the token after each position. Raises ValueError for wrong shapes."""
        return self.logits(self.hidden(tokens, ranks, deterministic=deterministic))

    def hidden(
        self,
        tokens: Int[Array, "batch length"],
        ranks: Int[Array, "batch length"],
        weight: Float[Array, "batch length"] | float = 0.0,
        deterministic: bool = True,
    ) -> Float[Array, "batch length width"]:
        """Features before the output projection; `weight` is added to the attention logits."""
        return self._read(tokens, ranks, weight, attend_by_rank, deterministic)[0]

    def read(
        self,
        tokens: Int[Array, "batch length"],
        ranks: Int[Array, "batch length"],
        weight: Float[Array, "batch length"] | float = 0.0,
    ) -> KVCache:
        """Reads a sequence in one pass; slots with rank -1 can be filled by `extend` later."""
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
        token: Int[Array, " batch"],
        slot: Int[Array, " batch"],
        rank: Int[Array, " batch"],
        cache: KVCache,
    ) -> tuple[Float[Array, "batch width"], KVCache]:
        """Reads one further token of each sample, and returns its features and the extended cache.

        The token attends to tokens in the cache up to its rank, and to itself. A slot can be written once.
        """
        x = self._embed(token[:, None], slot[:, None])
        sample = jnp.arange(len(token))
        weight = jnp.concatenate([cache.weight, cache.weight[sample, slot][:, None]], axis=1)
        ranks = Ranks(rank[:, None], cache.ranks, weight)
        memory = (cache.key, cache.value)
        (x,), (key, value) = self.transformer((x,), attend_to_memory, ranks, memory)
        cache = cache.replace(  # type: ignore[attr-defined]
            key=cache.key.at[:, sample, :, slot].set(rearrange(key, "l b h 1 d -> b l h d")),
            value=cache.value.at[:, sample, :, slot].set(rearrange(value, "l b h 1 d -> b l h d")),
            ranks=cache.ranks.at[sample, slot].set(rank),
        )
        return x[:, 0], cache


def tile_positions(
    table: Float[Array, "tokens width"], grid: tuple[int, int], factor: int
) -> Float[Array, "fine width"]:
    """Position embeddings of a grid `factor` times as fine, by tiling the table (CogView2, section 3.2)."""
    tiled = jnp.tile(rearrange(table, "(h w) d -> h w d", h=grid[0], w=grid[1]), (factor, factor, 1))
    return rearrange(tiled, "h w d -> (h w) d")
