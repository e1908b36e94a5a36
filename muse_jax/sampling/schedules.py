"""How many tokens are masked: in training, and at every step of parallel decoding (MaskGIT, section 3)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Counts are floors of products that are whole for some steps (cos(pi/3) = 1/2): rounding must not lose one.
_FLOOR_GUARD = 1e-9


def cosine_mask_ratio(progress: Float[Array, "..."]) -> Float[Array, "..."]:
    """The share of tokens that is masked at `progress` in [0, 1]: cos(pi/2 progress), from 1 down to 0."""
    return jnp.cos(jnp.pi / 2 * progress)


def mask_ratio_density(ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """Density of the training mask ratio in [0, 1): 2/pi (1 - ratio^2)^(-1/2); its mean is 2/pi (Muse)."""
    return 2 / jnp.pi / jnp.sqrt(1 - jnp.square(ratio))


def sample_mask_ratio(key: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Mask ratios cos(pi/2 r) with r ~ U(0, 1), which have the density `mask_ratio_density`."""
    return cosine_mask_ratio(jax.random.uniform(key, shape))


def sample_mask(key: Array, batch: int, n: int) -> Bool[Array, "batch n"]:
    """Training masks: each sample draws its own ratio and masks that share of its `n` tokens, at least one.

    The masked positions are a uniformly random subset of round(n ratio) positions. True means masked.
    """
    if batch < 1 or n < 1:
        raise ValueError(f"sample_mask needs at least one sample and one token, given batch={batch}, n={n}.")
    ratio_key, order_key = jax.random.split(key)
    ratio = sample_mask_ratio(ratio_key, (batch, 1))
    count = jnp.maximum(1, jnp.round(n * ratio).astype(jnp.int32))
    return ranks(jax.random.uniform(order_key, (batch, n))) < count


def ranks(values: Array) -> Array:
    """The place of every value in its row, 0 for the least; of equal values the earlier comes first."""
    return jnp.argsort(jnp.argsort(values, axis=-1), axis=-1)


def remask_counts(num_steps: int, n: int) -> np.ndarray:
    """Table (num_steps, n + 1): entry [t, n0] is floor(n0 cos(pi/2 (t+1)/num_steps)), before any clipping.

    `n0` is how many tokens were masked at the start. Computed on the host in float64, so that the compiled
    loop looks counts up and never rounds; the last row is 0.
    """
    progress = np.arange(1, num_steps + 1) / num_steps
    product = np.outer(np.cos(np.pi / 2 * progress), np.arange(n + 1))
    return np.floor(product + _FLOOR_GUARD).astype(np.int32)


def reveal_counts(num_steps: int, n: int) -> np.ndarray:
    """Table (num_steps, n + 1): how many of `n0` masked tokens the Halton order has revealed after step t.

    Entry [t, n0] is floor(n0 (1 - arccos((t+1)/num_steps) / (pi/2))), at least t+1 and at most n0; the last
    row is n0 (Besnier et al., Halton scheduler for MaskGIT).
    """
    step = np.arange(1, num_steps + 1)
    product = np.outer(1 - np.arccos(step / num_steps) / (np.pi / 2), np.arange(n + 1))
    counts = np.maximum(np.floor(product + _FLOOR_GUARD), step[:, None])
    return np.minimum(counts, np.arange(n + 1)).astype(np.int32)
