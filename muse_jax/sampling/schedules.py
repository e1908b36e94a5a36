"""Mask schedules for training and for each step of parallel decoding (MaskGIT, section 3)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Counts are floors of products that are integers at some steps (cos(pi/3) = 1/2): guard against rounding.
_FLOOR_GUARD = 1e-9


def cosine_mask_ratio(progress: Float[Array, "..."]) -> Float[Array, "..."]:
    """Fraction of tokens masked at `progress` in [0, 1]: cos(pi/2 progress), from 1 down to 0."""
    return jnp.cos(jnp.pi / 2 * progress)


def mask_ratio_density(ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """Density of the training mask ratio in [0, 1): 2/pi (1 - ratio^2)^(-1/2), with mean 2/pi (Muse)."""
    return 2 / jnp.pi / jnp.sqrt(1 - jnp.square(ratio))


def sample_mask_ratio(key: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Samples mask ratios cos(pi/2 r) with r ~ U(0, 1); their density is `mask_ratio_density`."""
    return cosine_mask_ratio(jax.random.uniform(key, shape))


def sample_mask(key: Array, batch: int, n: int) -> Bool[Array, "batch n"]:
    """Samples training masks, True where masked.

    Each sample has a mask ratio of its own. Its masked positions are a uniformly random subset of
    max(1, round(n ratio)) of `n` positions.

    Raises:
      ValueError: if `batch` or `n` is below 1.
    """
    if batch < 1 or n < 1:
        raise ValueError(f"sample_mask needs at least one sample and one token, given batch={batch}, n={n}.")
    ratio_key, order_key = jax.random.split(key)
    ratio = sample_mask_ratio(ratio_key, (batch, 1))
    count = jnp.maximum(1, jnp.round(n * ratio).astype(jnp.int32))
    return ranks(jax.random.uniform(order_key, (batch, n))) < count


def ranks(values: Array) -> Array:
    """Rank of each value along the last axis, 0 for the smallest; ties are ranked by position."""
    return jnp.argsort(jnp.argsort(values, axis=-1), axis=-1)


def remask_counts(num_steps: int, n: int) -> np.ndarray:
    """Number of tokens that stay masked after each step, before any clipping (MaskGIT).

    Returns:
      int32 table (num_steps, n + 1) whose entry [t, n0] is floor(n0 cos(pi/2 (t+1)/num_steps)) for `n0`
      tokens masked at the start. The last row is 0. It is computed on the host in float64, so that the
      compiled loop looks counts up and does not round.
    """
    progress = np.arange(1, num_steps + 1) / num_steps
    product = np.outer(np.cos(np.pi / 2 * progress), np.arange(n + 1))
    return np.floor(product + _FLOOR_GUARD).astype(np.int32)


def reveal_counts(num_steps: int, n: int) -> np.ndarray:
    """Number of tokens that the Halton order has revealed after each step (Besnier et al., ICLR 2025).

    Returns:
      int32 table (num_steps, n + 1) whose entry [t, n0] is floor(n0 (1 - arccos((t+1)/num_steps) / (pi/2))),
      at least t+1 and at most n0, for `n0` tokens masked at the start. The last row is n0.
    """
    step = np.arange(1, num_steps + 1)
    product = np.outer(1 - np.arccos(step / num_steps) / (np.pi / 2), np.arange(n + 1))
    counts = np.maximum(np.floor(product + _FLOOR_GUARD), step[:, None])
    return np.minimum(counts, np.arange(n + 1)).astype(np.int32)
