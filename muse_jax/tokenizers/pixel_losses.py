"""Pixel-wise losses between images and their reconstructions."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def l1_loss(images: Float[Array, "b h w c"], targets: Float[Array, "b h w c"]) -> Float[Array, ""]:
    """Mean absolute error, which unlike the squared error does not favour blurred outlines."""
    return jnp.mean(jnp.abs(images - targets))


def edge_loss(images: Float[Array, "b h w c"], targets: Float[Array, "b h w c"]) -> Float[Array, ""]:
    """Mean absolute error of the differences between neighbouring pixels, summed over both axes."""
    error = images - targets
    return jnp.mean(jnp.abs(jnp.diff(error, axis=1))) + jnp.mean(jnp.abs(jnp.diff(error, axis=2)))
