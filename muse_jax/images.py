"""The two forms of a picture: uint8 on the host, float32 in [-1, 1] in the networks."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def to_unit_range(images: UInt8[Array, "... height width 3"]) -> Float[Array, "... height width 3"]:
    """0..255 to [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def from_unit_range(images: Float[Array, "... height width 3"]) -> UInt8[Array, "... height width 3"]:
    """[-1, 1], clipped, to 0..255, rounded."""
    return jnp.round(jnp.clip(images * 127.5 + 127.5, 0, 255)).astype(jnp.uint8)
