"""Classifier-free guidance for token networks (Muse, section 2.7)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from muse_jax.nn.heads import LinearLogits
from pallas_kernels.masked_sampling import mix_guidance

Logits = Array | LinearLogits
"""Logits (batch, n, vocab), or their factors, from which `sample_with_log_prob` samples directly."""
LogitsFn = Callable[[Array, Array], Logits]
"""(tokens (batch, n), step fraction in (0, 1]) -> logits."""


def guided(
    logits_cond: Float[Array, "batch n vocab"],
    logits_uncond: Float[Array, "batch n vocab"],
    scale: Float[Array, "..."] | float,
) -> Float[Array, "batch n vocab"]:
    """Guided logits (1 + scale) logits_cond - scale logits_uncond, in float32.

    Args:
      scale: a scalar or one number per sample (batch,); 0 is no guidance. May be traced.
    """
    return mix_guidance(logits_cond.astype(jnp.float32), logits_uncond.astype(jnp.float32), scale)


def guided_logits_fn(
    apply: Callable[..., Logits],
    params: Any,
    cond: tuple[Any, ...],
    uncond: tuple[Any, ...] | None = None,
    guidance_scale: Float[Array, "..."] | float | None = None,
) -> LogitsFn:
    """Builds the `logits_fn` of a sampler from a network and its conditions.

    The scale grows linearly over the steps, guidance_scale * step_fraction, up to guidance_scale at the last
    step. The conditional and unconditional passes run as one batch of twice the size.

    Args:
      apply: `apply(params, tokens, *cond)` returns logits (batch, n, vocab), as an array or, preferably, as
        `LinearLogits`. Their hidden states are then mixed, which is equivalent because logits are linear in
        them, and costs less.
      params: the network's parameters.
      cond: arrays that follow the tokens, such as (text, text_mask), each with a leading batch axis.
      uncond: the same structure with the states of the empty text or of a negative prompt. A batch of 1 is
        repeated. None turns guidance off.
      guidance_scale: 0 or greater, a scalar or (batch,), may be traced; None turns guidance off.

    Raises:
      ValueError: for a negative scale, or conditions whose shapes do not match.
    """
    if uncond is None or guidance_scale is None:
        return lambda tokens, step_fraction: apply(params, tokens, *cond)
    if isinstance(guidance_scale, int | float) and guidance_scale < 0:
        raise ValueError(f"guidance_scale must be 0 (no guidance) or greater, given {guidance_scale}.")
    pairs = jax.tree.map(pair, tuple(cond), tuple(uncond))

    def logits_fn(tokens: Int[Array, "batch n"], step_fraction: Array) -> Logits:
        scale = jnp.asarray(guidance_scale, jnp.float32) * step_fraction
        both = apply(params, pair(tokens, tokens), *pairs)
        if isinstance(both, LinearLogits):
            return both._replace(hidden=mix_guidance(*halves(both.hidden), scale))
        return guided(*halves(both), scale)

    return logits_fn


def halves(both: Array) -> tuple[Array, Array]:
    """The conditional and the unconditional pass of each sample, the inverse of `pair`."""
    pairs = both.reshape(-1, 2, *both.shape[1:])
    return pairs[:, 0], pairs[:, 1]


def pair(cond: Array, uncond: Array) -> Array:
    """Interleaves the two passes of each sample: (batch, ...) twice -> (2 batch, ...).

    Interleaving keeps both passes of a sample on one device when the batch is sharded.
    """
    cond, uncond = jnp.asarray(cond), jnp.asarray(uncond)
    if cond.shape[1:] != uncond.shape[1:] or uncond.shape[0] not in (1, cond.shape[0]):
        raise ValueError(
            f"The unconditional input of shape {uncond.shape} does not match the conditional one of shape "
            f"{cond.shape}; give both the same length, and a batch of {cond.shape[0]} or 1."
        )
    both = jnp.stack([cond, jnp.broadcast_to(uncond, cond.shape).astype(cond.dtype)], axis=1)
    return both.reshape(2 * cond.shape[0], *cond.shape[1:])
