"""The network of the toy system."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from tests.toy.words import BUCKETS, LENGTH


class BagOfWords(nn.Module):
    """Logits of every token of an image, from the mean of the embeddings of the prompt's words."""

    vocab_size: int
    grid: tuple[int, ...]
    width: int = 32
    dtype: Any = jnp.float32

    def example_inputs(self) -> tuple[Array, ...]:
        """Inputs of the smallest size, to initialize parameters with."""
        return jnp.zeros((1, LENGTH), jnp.int32), jnp.ones((1, LENGTH), bool)

    @nn.compact
    def __call__(
        self, ids: Int[Array, "batch text"], mask: Bool[Array, "batch text"]
    ) -> Float[Array, "batch tokens vocab"]:
        states = nn.Embed(BUCKETS, self.width, dtype=self.dtype)(ids) * mask[..., None]
        mean = jnp.sum(states, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)[:, None]
        kernel = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
        hidden = nn.gelu(nn.Dense(self.width, kernel_init=kernel, dtype=self.dtype)(mean))
        return nn.DenseGeneral((self.grid[0] * self.grid[1], self.vocab_size), dtype=self.dtype)(hidden)
