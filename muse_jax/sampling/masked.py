"""Parallel decoding of masked tokens in confidence order (MaskGIT, Muse) or Halton order; mask-free editing.

The functions are pure and meant to run under `jax.jit`: shapes, `num_steps`, `order` and `grid` are static;
temperatures, tokens and keys are traced. Step t = 0 .. num_steps-1 draws its noise from
`sample_key, choice_key = jax.random.split(jax.random.fold_in(key, t))`; a rolled Halton order draws its
offsets from `jax.random.fold_in(key, num_steps)`.
"""

import math
import numbers

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from muse_jax.nn.heads import LinearLogits, unembed
from muse_jax.sampling.guidance import Logits, LogitsFn
from muse_jax.sampling.halton import masked_halton_ranks
from muse_jax.sampling.logits import sample_with_log_prob, top_k_filter
from muse_jax.sampling.progress import Progress, StepCallback, report_step
from muse_jax.sampling.schedules import ranks, remask_counts, reveal_counts

ORDERS = ("confidence", "halton")


@struct.dataclass
class DecodeState:
    """State that the decoding loop carries from step to step."""

    tokens: Int[Array, "batch n"]
    """Codes, and `mask_id` where no code is sampled yet."""
    masked: Bool[Array, "batch n"]
    """True where a token is still to be sampled; no position becomes masked again."""


def masked_decode(
    logits_fn: LogitsFn,
    tokens: Int[Array, "batch n"],
    key: Array,
    *,
    mask_id: int,
    num_steps: int,
    temperature: Float[Array, ""] | float = 1.0,
    choice_temperature: Float[Array, ""] | float = 4.5,
    order: str = "confidence",
    grid: tuple[int, ...] | None = None,
    roll: bool = False,
    on_step: Progress | StepCallback | None = None,
) -> Int[Array, "batch n"]:
    """Samples the tokens that are `mask_id`, in parallel, with `num_steps` passes of the network.

    Every step samples all masked tokens from softmax(logits / temperature) and keeps some of them for good.
    With N0 tokens of a sample masked at the start and T = `num_steps`:

    * "confidence" (MaskGIT, section 3.2): confidence = log p(token) + choice_temperature (1 - (t+1)/T)
      Gumbel noise. The floor(N0 cos(pi/2 (t+1)/T)) least confident tokens are masked again, at most one fewer
      than were masked and at least 1; the last step masks none.
    * "halton" (Besnier et al., 2025): the masked positions are revealed along the Halton sequence on `grid`,
      the first max(t+1, floor(N0 (1 - arccos((t+1)/T) / (pi/2)))) of them by step t. Confidence and choice
      noise are not used. With `roll`, the sequence starts at a random place for each sample.

    Args:
      logits_fn: maps (tokens, step_fraction) to logits (batch, n, vocab) or to `LinearLogits`, from which
        tokens are sampled without materializing them; step_fraction is (t+1)/T in (0, 1].
      tokens: codes in [0, vocab), and `mask_id` where to sample. Samples may differ in their number.
      key: a key of `jax.random.key`.
      mask_id: outside [0, vocab), commonly vocab.
      num_steps: T, static, at least 1.
      temperature: 0 or greater; 0 is greedy. Traced.
      choice_temperature: scale of the confidence noise at the start, 0 or greater. Traced.
      order: "confidence" or "halton".
      grid: sizes of one to three axes whose product is n; required by the Halton order.
      roll: see "halton".
      on_step: None, the ticket from `listening(callback)` (another callback needs no recompilation), or a
        function of a `DecodeStep`, which becomes part of the compiled program.

    Returns:
      int32 tokens without `mask_id`; tokens that were known at the start are unchanged.

    Raises:
      ValueError: for an argument out of its range, or logits that cover `mask_id`.
    """
    _check(tokens, num_steps, temperature, choice_temperature)
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, given {order!r}.")
    tokens = jnp.asarray(tokens, jnp.int32)
    masked = tokens == mask_id
    num_masked = jnp.sum(masked, axis=-1, keepdims=True)

    if order == "halton":
        roll_key = jax.random.fold_in(key, num_steps) if roll else None
        reveal_rank = masked_halton_ranks(masked, _checked_grid(grid, tokens.shape[1]), roll_key)
        revealed = jnp.asarray(reveal_counts(num_steps, tokens.shape[1]))

        def still_masked(t: Array, masked: Array, log_prob: Array, choice_key: Array) -> Array:
            return masked & (reveal_rank >= revealed[t][num_masked])
    else:
        remasked = jnp.asarray(remask_counts(num_steps, tokens.shape[1]))

        def still_masked(t: Array, masked: Array, log_prob: Array, choice_key: Array) -> Array:
            noise = (
                choice_temperature * (1 - (t + 1) / num_steps) * jax.random.gumbel(choice_key, log_prob.shape)
            )
            confidence = jnp.where(masked, log_prob + noise, jnp.inf)
            most = jnp.sum(masked, axis=-1, keepdims=True) - 1
            count = jnp.maximum(1, jnp.minimum(remasked[t][num_masked], most))
            return masked & (ranks(confidence) < count) & (t + 1 < num_steps)

    def step(t: Array, state: DecodeState) -> DecodeState:
        sample_key, choice_key = jax.random.split(jax.random.fold_in(key, t))
        logits = _checked_logits(logits_fn(state.tokens, _fraction(t, num_steps)), state.tokens, mask_id)
        sampled, log_prob = sample_with_log_prob(sample_key, logits, temperature)
        masked = still_masked(t, state.masked, log_prob, choice_key)
        filled = jnp.where(state.masked, sampled, state.tokens)
        report_step(on_step, t + 1, num_steps, jnp.sum(masked))
        return DecodeState(tokens=jnp.where(masked, mask_id, filled), masked=masked)

    return jax.lax.fori_loop(0, num_steps, step, DecodeState(tokens=tokens, masked=masked)).tokens


def mask_free_edit(
    logits_fn: LogitsFn,
    tokens: Int[Array, "batch n"],
    key: Array,
    *,
    mask_id: int,
    num_steps: int = 100,
    edit_ratio: Float[Array, ""] | float = 0.08,
    top_k: int = 3,
    temperature: Float[Array, ""] | float = 1.0,
    editable: Bool[Array, "batch n"] | None = None,
    on_step: Progress | StepCallback | None = None,
) -> Int[Array, "batch n"]:
    """Edits an image's tokens towards a prompt, a few at a time, without a mask (Muse, zero-shot editing).

    Each of `num_steps` iterations masks a random subset of the tokens and resamples it from the `top_k` most
    probable codes. `logits_fn` should apply guidance whose negative prompt is the old caption. Because the
    image is nearly complete at every iteration, the step fraction is always 1: full guidance.

    Args:
      logits_fn: as for `masked_decode`.
      tokens: codes of the whole image.
      key: a key of `jax.random.key`.
      mask_id: as for `masked_decode`.
      num_steps: static, at least 1.
      edit_ratio: fraction of the editable tokens that an iteration resamples, in (0, 1]; at least one token.
        Traced.
      top_k: at least 1, static; the size of the vocabulary or more is no restriction.
      temperature: 0 or greater; 0 is greedy. Traced.
      editable: True where tokens may change; everywhere by default.
      on_step: as for `masked_decode`.

    Returns:
      int32 tokens.

    Raises:
      ValueError: for an argument out of its range, or logits that cover `mask_id`.
    """
    _check(tokens, num_steps, temperature, 0.0)
    if isinstance(edit_ratio, numbers.Real) and not 0 < edit_ratio <= 1:
        raise ValueError(f"edit_ratio must be above 0 and at most 1, given {edit_ratio}.")
    tokens = jnp.asarray(tokens, jnp.int32)
    editable = jnp.ones(tokens.shape, bool) if editable is None else jnp.broadcast_to(editable, tokens.shape)
    num_editable = jnp.sum(editable, axis=-1, keepdims=True)
    count = jnp.maximum(1, jnp.round(edit_ratio * num_editable).astype(jnp.int32))

    def step(t: Array, tokens: Array) -> Array:
        sample_key, choice_key = jax.random.split(jax.random.fold_in(key, t))
        lottery = jnp.where(editable, jax.random.uniform(choice_key, tokens.shape), jnp.inf)
        masked = editable & (ranks(lottery) < count)
        logits = logits_fn(jnp.where(masked, mask_id, tokens), jnp.float32(1))
        logits = _checked_logits(logits, tokens, mask_id)
        materialized = unembed(*logits) if isinstance(logits, LinearLogits) else logits
        sampled, _ = sample_with_log_prob(sample_key, top_k_filter(materialized, top_k), temperature)
        edited = jnp.where(masked, sampled, tokens)
        # No token is masked between iterations; the count only ties the report to the iteration's end.
        report_step(on_step, t + 1, num_steps, jnp.sum(edited == mask_id))
        return edited

    return jax.lax.fori_loop(0, num_steps, step, tokens)


def _fraction(t: Array, num_steps: int) -> Float[Array, ""]:
    return (t + 1).astype(jnp.float32) / num_steps


def _check(
    tokens: Array, num_steps: int, temperature: Array | float, choice_temperature: Array | float
) -> None:
    if jnp.ndim(tokens) != 2 or not jnp.issubdtype(jnp.result_type(tokens), jnp.integer):
        raise ValueError(
            f"tokens must be integers of shape (batch, n), given {jnp.result_type(tokens)} "
            f"of shape {jnp.shape(tokens)}."
        )
    if not isinstance(num_steps, numbers.Integral) or num_steps < 1:
        raise ValueError(f"num_steps must be a whole number of at least 1, given {num_steps!r}.")
    for name, value in (("temperature", temperature), ("choice_temperature", choice_temperature)):
        if isinstance(value, numbers.Real) and not value >= 0:
            raise ValueError(f"{name} must be 0 or greater, given {value}.")


def _checked_grid(grid: tuple[int, ...] | None, n: int) -> tuple[int, ...]:
    if grid is None or math.prod(grid) != n:
        raise ValueError(
            f"The Halton order needs the grid of the {n} tokens, such as (height, width), given {grid}."
        )
    return grid


def _checked_logits(logits: Logits, tokens: Array, mask_id: int) -> Logits:
    if len(logits.shape) != 3 or logits.shape[:2] != tokens.shape:
        raise ValueError(
            f"logits_fn must return logits of shape {(*tokens.shape, 'vocab')}, but returned {logits.shape}."
        )
    if 0 <= mask_id < logits.shape[-1]:
        raise ValueError(
            f"The logits cover {logits.shape[-1]} codes, so that mask_id {mask_id} could be sampled; "
            "cut them to the codes of the tokenizer."
        )
    return logits
