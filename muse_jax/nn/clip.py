"""The two encoders of CLIP (Radford et al., ICML 2021): pre-norm transformers over patches and over text."""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float, Int

_EPSILON = 1e-5
ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: nn.gelu(x, approximate=False),
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def normalize_images(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Images in [0, 255] as CLIP's image encoder takes them."""
    return (images / 255 - jnp.array(MEAN)) / jnp.array(STD)


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(_EPSILON, dtype=jnp.float32, use_fast_variance=False, name=name)


class CLIPLayer(nn.Module):
    """One layer; scanned over, with its input and its output as the carry."""

    heads: int
    mlp_dim: int
    activation: str
    causal: bool
    dtype: Any

    @nn.compact
    def __call__(self, carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        given = x = carry[0]
        width, dense = x.shape[-1], lambda size, name: nn.Dense(size, dtype=self.dtype, name=name)
        y = _norm("attention_norm")(x)
        query, key, value = (
            rearrange(dense(width, name)(y), "b n (h d) -> b n h d", h=self.heads)
            for name in ("query", "key", "value")
        )
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=self.causal)
        x = x + dense(width, "out")(rearrange(mixed, "b n h d -> b n (h d)"))
        hidden = ACTIVATIONS[self.activation](dense(self.mlp_dim, "mlp_in")(_norm("mlp_norm")(x)))
        return (x + dense(width, "mlp_out")(hidden), given), None


class CLIPTransformer(nn.Module):
    """`depth` layers over (batch, tokens, width): the states after the last one, and before it."""

    depth: int
    heads: int
    mlp_dim: int
    activation: str
    causal: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> tuple[Float[Array, "b n d"], Float[Array, "b n d"]]:
        layers = nn.scan(
            CLIPLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
        )(self.heads, self.mlp_dim, self.activation, self.causal, self.dtype, name="layers")
        return layers((x, x), None)[0]


class CLIPVision(nn.Module):
    """Image encoder: projected state of the class token."""

    width: int
    depth: int
    heads: int
    mlp_dim: int
    patch: int
    image_size: int
    projection: int
    activation: str = "quick_gelu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b size size 3"]) -> Float[Array, "b projection"]:
        """Embeds images that are normalized by CLIP's mean and standard deviation."""
        normal = nn.initializers.normal(0.02)
        side = (self.patch, self.patch)
        patches = nn.Conv(self.width, side, side, "VALID", use_bias=False, name="patches")(images)
        patches = rearrange(patches, "b h w d -> b (h w) d")
        token: Any = self.param("class_token", normal, (self.width,))
        count = (self.image_size // self.patch) ** 2 + 1
        positions: Any = self.param("positions", normal, (count, self.width))
        first = jnp.broadcast_to(token, (len(images), 1, self.width))
        x = _norm("input_norm")(jnp.concatenate([first, patches], axis=1) + positions)
        x, _ = CLIPTransformer(
            self.depth, self.heads, self.mlp_dim, self.activation, False, self.dtype, name="transformer"
        )(x)
        pooled = _norm("output_norm")(x[:, 0])
        return nn.Dense(self.projection, use_bias=False, name="projection")(pooled)


class CLIPText(nn.Module):
    """Text encoder: states of all tokens, and the projected state at the end of each text."""

    vocab_size: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    max_positions: int
    projection: int
    activation: str = "quick_gelu"
    dtype: Any = jnp.float32

    def example_inputs(self) -> tuple[Array, ...]:
        """Inputs of the smallest size, to initialize parameters with."""
        return jnp.zeros((1, 2), jnp.int32), jnp.ones(1, jnp.int32)

    def __call__(
        self, ids: Int[Array, "b n"], end: Int[Array, " b"]
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b projection"]]:
        """Encodes texts.

        Args:
          ids: tokens, padded in any way: attention is causal.
          end: place of each text's end token.
        """
        states, _, pooled = self.encode(ids, end)
        return states, pooled

    def penultimate(
        self, ids: Int[Array, "b n"], end: Int[Array, " b"]
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b projection"]]:
        """As `__call__`, with the states before the last layer, not normalized (aMUSEd)."""
        _, states, pooled = self.encode(ids, end)
        return states, pooled

    @nn.compact
    def encode(
        self, ids: Int[Array, "b n"], end: Int[Array, " b"]
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b n d"], Float[Array, "b projection"]]:
        """Normalized states of the last layer, states before it, and the projected state at the end."""
        normal = nn.initializers.normal(0.02)
        words: Any = self.param("words", normal, (self.vocab_size, self.width))
        positions: Any = self.param("positions", normal, (self.max_positions, self.width))
        x = words[ids] + positions[: ids.shape[1]]
        x, before = CLIPTransformer(
            self.depth, self.heads, self.mlp_dim, self.activation, True, self.dtype, name="transformer"
        )(x)
        x = _norm("output_norm")(x)
        pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        return x, before, nn.Dense(self.projection, use_bias=False, name="projection")(pooled)
