"""Classifier-free guidance for token networks (Muse, section 2.7)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from muse_jax.nn.heads import LinearLogits
from pallas_kernels.masked_sampling import mix_guidance

# Made, or left as a product from which `sample_with_log_prob` draws without making them.
Logits = Array | LinearLogits
# (tokens (batch, n), step fraction in (0, 1]) -> logits (batch, n, vocab)
LogitsFn = Callable[[Array, Array], Logits]


def guided(
    logits_cond: Float[Array, "batch n vocab"],
    logits_uncond: Float[Array, "batch n vocab"],
    scale: Float[Array, "..."] | float,
) -> Float[Array, "batch n vocab"]:
    """(1 + scale) logits_cond - scale logits_uncond, in float32; scale 0 is no guidance.

    `scale` is a scalar or one number a sample (batch,), and may be traced.
    """
    return mix_guidance(logits_cond.astype(jnp.float32), logits_uncond.astype(jnp.float32), scale)


def guided_logits_fn(
    apply: Callable[..., Logits],
    params: Any,
    cond: tuple[Any, ...],
    uncond: tuple[Any, ...] | None = None,
    guidance_scale: Float[Array, "..."] | float | None = None,
) -> LogitsFn:
    """Build the `logits_fn` of a decoder from a network and its conditions.

    `apply(params, tokens, *cond) -> logits (batch, n, vocab)`, as an array or, better, as a network's
    `linear_logits`: guidance is then that of the hidden states, which comes to the same. `cond` is the tuple
    of arrays that follow the tokens, such as (text, text_mask) or (low_tokens, text, text_mask), each with a
    leading batch axis.
    `uncond` has the same structure with the states of the empty text, or of a negative prompt, in place of
    the prompt's; an array in it may have a batch of 1, which is repeated. The scale grows linearly with the
    steps: it is guidance_scale * step_fraction, which at the last step is the whole of it. Both passes are
    one batch of twice the size. `guidance_scale` may be traced, a scalar or (batch,). Without `uncond` or
    with None for the scale there is no guidance and one pass.
    """
    if uncond is None or guidance_scale is None:
        return lambda tokens, step_fraction: apply(params, tokens, *cond)
    if isinstance(guidance_scale, int | float) and guidance_scale < 0:
        raise ValueError(f"guidance_scale must be 0 (no guidance) or greater, given {guidance_scale}.")
    pairs = jax.tree.map(_pair, tuple(cond), tuple(uncond))

    def logits_fn(tokens: Int[Array, "batch n"], step_fraction: Array) -> Logits:
        scale = jnp.asarray(guidance_scale, jnp.float32) * step_fraction
        both = apply(params, _pair(tokens, tokens), *pairs)
        if isinstance(both, LinearLogits):
            return both._replace(hidden=mix_guidance(*_halves(both.hidden), scale))
        return guided(*_halves(both), scale)

    return logits_fn


def _halves(both: Array) -> tuple[Array, Array]:
    """Undoes `_pair`."""
    pairs = both.reshape(-1, 2, *both.shape[1:])
    return pairs[:, 0], pairs[:, 1]


def _pair(cond: Array, uncond: Array) -> Array:
    """Put each sample's two passes side by side: (batch, ...) twice -> (2 batch, ...).

    Neighbours and not halves, so that a batch sharded over devices keeps both passes of a sample on one.
    """
    cond, uncond = jnp.asarray(cond), jnp.asarray(uncond)
    if cond.shape[1:] != uncond.shape[1:] or uncond.shape[0] not in (1, cond.shape[0]):
        raise ValueError(
            f"The unconditional input of shape {uncond.shape} does not match the conditional one of shape "
            f"{cond.shape}; give both the same length, and a batch of {cond.shape[0]} or 1."
        )
    both = jnp.stack([cond, jnp.broadcast_to(uncond, cond.shape).astype(cond.dtype)], axis=1)
    return both.reshape(2 * cond.shape[0], *cond.shape[1:])
