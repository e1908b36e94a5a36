"""Parallel decoding of masked tokens, in confidence order (MaskGIT, Muse) or Halton order; mask-free editing.

The functions are pure and made to be called under `jax.jit`: shapes, `num_steps`, `order` and `grid` are
static; temperatures, tokens and keys are traced. Step t = 0 .. num_steps-1 draws its noise from
`sample_key, choice_key = jax.random.split(jax.random.fold_in(key, t))`, and a rolled Halton order its
offsets from `jax.random.fold_in(key, num_steps)`.
"""

import numbers

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from muse_jax.nn.layers import LinearLogits, unembed
from muse_jax.sampling.guidance import Logits, LogitsFn
from muse_jax.sampling.halton import masked_halton_ranks
from muse_jax.sampling.logits import sample_with_log_prob, top_k_filter
from muse_jax.sampling.progress import Progress, StepCallback, report_step
from muse_jax.sampling.schedules import ranks, remask_counts, reveal_counts

ORDERS = ("confidence", "halton")


@struct.dataclass
class DecodeState:
    """What the loop carries from step to step."""

    tokens: Int[Array, "batch n"]
    """Codes, and `mask_id` where nothing is drawn yet."""
    masked: Bool[Array, "batch n"]
    """Where tokens are still to be drawn. Only ever shrinks."""


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
    grid: tuple[int, int] | None = None,
    roll: bool = False,
    on_step: Progress | StepCallback | None = None,
) -> Int[Array, "batch n"]:
    """Draw the tokens that are `mask_id`, all in parallel, in `num_steps` passes of the network.

    Every step draws all masked tokens from softmax(logits / temperature) and keeps some of them for good.
    With N0 tokens of a sample masked at the start:

    * "confidence" (MaskGIT, section 3.2): confidence = log p(token) + choice_temperature (1 - (t+1)/T)
      Gumbel; the floor(N0 cos(pi/2 (t+1)/T)) least confident are masked again, at most one fewer than were
      masked and at least 1; the last step masks none.
    * "halton" (Besnier et al., 2025): the masked positions are revealed along the 2D Halton sequence on
      `grid`, the first floor(N0 (1 - arccos((t+1)/T) / (pi/2))) of them by step t, at least t+1; no
      confidence and no choice noise. With `roll` the sequence of every sample begins at a random place.

    Args:
      logits_fn: (tokens, step_fraction) -> logits (batch, n, vocab), or `LinearLogits`, from which tokens are
        drawn without making them; step_fraction is (t+1)/T in (0, 1].
      tokens: codes in [0, vocab), and `mask_id` at the places to draw; samples may differ in how many.
      key: a key of `jax.random.key`.
      mask_id: outside [0, vocab), commonly vocab.
      num_steps: T, static, at least 1.
      temperature: 0 is greedy; traced.
      choice_temperature: how much noise the confidence has at the start; traced; the Halton order ignores it.
      grid: (height, width) with height * width = n; only the Halton order needs it.
      on_step: None, the ticket of `listening(callback)` (no recompilation for another callback), or a
        function of a `DecodeStep`, which becomes part of the compiled program.

    Returns:
      int32 tokens without `mask_id`; those known at the start are unchanged.

    Raises:
      ValueError: an argument that is out of its range, or logits over `mask_id` itself.
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
        drawn, log_prob = sample_with_log_prob(sample_key, logits, temperature)
        masked = still_masked(t, state.masked, log_prob, choice_key)
        filled = jnp.where(state.masked, drawn, state.tokens)
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
    share: Float[Array, ""] | float = 0.08,
    top_k: int = 3,
    temperature: Float[Array, ""] | float = 1.0,
    editable: Bool[Array, "batch n"] | None = None,
    on_step: Progress | StepCallback | None = None,
) -> Int[Array, "batch n"]:
    """Change an image's tokens towards a prompt, a few at a time, with no mask given (Muse, editing).

    Each of `num_steps` iterations masks a random `share` of the tokens, at least one, and redraws them from
    the `top_k` most probable codes. Give `logits_fn` guidance whose negative prompt is the old caption. The
    image is nearly whole at every iteration, so that `logits_fn` always gets the step fraction 1: the whole
    guidance scale.

    Args:
      tokens: int32 codes of the whole image.
      share: in (0, 1]; the number of tokens redrawn is round(share * n); traced.
      top_k: static; the size of the vocabulary or more is no restriction.
      editable: True where tokens may change; all by default. The share counts these alone.
    """
    _check(tokens, num_steps, temperature, 0.0)
    if isinstance(share, numbers.Real) and not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, given {share}.")
    tokens = jnp.asarray(tokens, jnp.int32)
    editable = jnp.ones(tokens.shape, bool) if editable is None else jnp.broadcast_to(editable, tokens.shape)
    num_editable = jnp.sum(editable, axis=-1, keepdims=True)
    count = jnp.maximum(1, jnp.round(share * num_editable).astype(jnp.int32))

    def step(t: Array, tokens: Array) -> Array:
        sample_key, choice_key = jax.random.split(jax.random.fold_in(key, t))
        lottery = jnp.where(editable, jax.random.uniform(choice_key, tokens.shape), jnp.inf)
        masked = editable & (ranks(lottery) < count)
        logits = logits_fn(jnp.where(masked, mask_id, tokens), jnp.float32(1))
        logits = _checked_logits(logits, tokens, mask_id)
        made = unembed(*logits) if isinstance(logits, LinearLogits) else logits
        drawn, _ = sample_with_log_prob(sample_key, top_k_filter(made, top_k), temperature)
        edited = jnp.where(masked, drawn, tokens)
        # Nothing is masked between iterations; the count only ties the report to the iteration's end.
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


def _checked_grid(grid: tuple[int, int] | None, n: int) -> tuple[int, int]:
    if grid is None or len(grid) != 2 or grid[0] * grid[1] != n:
        raise ValueError(f"The Halton order needs the grid (height, width) of the {n} tokens, given {grid}.")
    return grid


def _checked_logits(logits: Logits, tokens: Array, mask_id: int) -> Logits:
    if len(logits.shape) != 3 or logits.shape[:2] != tokens.shape:
        raise ValueError(
            f"logits_fn must return logits of shape {(*tokens.shape, 'vocab')}, but returned {logits.shape}."
        )
    if 0 <= mask_id < logits.shape[-1]:
        raise ValueError(
            f"The logits are over {logits.shape[-1]} codes and would draw mask_id {mask_id}; "
            "cut them to the codes alone."
        )
    return logits
