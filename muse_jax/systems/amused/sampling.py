"""aMUSEd's sampler: parallel decoding in order of confidence (diffusers' `AmusedScheduler`).

It is MaskGIT's with three differences: the number of tokens to mask again follows from the length of the
sequence and not from how many were masked at the start, the noise on the confidence falls linearly to zero
over the steps, and inpainting uses a linear schedule.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from muse_jax.sampling.guidance import LogitsFn
from muse_jax.sampling.logits import sample_with_log_prob
from muse_jax.sampling.params import SamplingParams, check_not_negative, check_steps, static
from muse_jax.sampling.progress import Progress, StepCallback, report_step
from muse_jax.sampling.schedules import ranks

SCHEDULES = ("cosine", "linear")


@struct.dataclass
class AmusedSampling(SamplingParams):
    """Sampling parameters of aMUSEd; the defaults are diffusers'.

    num_steps: passes of the network, at least 1.
    guidance_scale: strength of classifier-free guidance, 0 or greater; 1 is none (diffusers' convention).
    choice_temperature: of the noise on which tokens are kept first, at the first step; at the last it is 0.
    aesthetic_score: micro-condition, 0 or greater: how beautiful an image shall be; LAION's scale ends at 10.
    crop_x, crop_y: micro-condition, 0 or greater: how many pixels were cut off.
    """

    num_steps: int = static(12)
    guidance_scale: float = 10.0
    choice_temperature: float = 2.0
    aesthetic_score: float = 6.0
    crop_x: float = 0.0
    crop_y: float = 0.0

    def check(self) -> None:
        check_steps("num_steps", self.num_steps)
        for name in self.names()[1:]:
            check_not_negative(name, getattr(self, name))


def mask_ratios(num_steps: int, schedule: str) -> Float[np.ndarray, " num_steps"]:
    """The share of tokens that stay masked after each step: cos(pi/2 (t+1)/T), or 1 - (t+1)/T.

    It is rounded to float32 where diffusers rounds it: the numbers of tokens are floors of its products.
    """
    progress = (np.arange(1, num_steps + 1) / np.float32(num_steps)).astype(np.float32)
    if schedule == "linear":
        return np.float32(1) - progress
    angles = progress * np.float32(np.pi) / np.float32(2)
    return np.cos(angles.astype(np.float64)).astype(np.float32)


def mask_tokens(
    tokens: Int[Array, "batch n"], key: Array, *, mask_id: int, ratio: float
) -> Int[Array, "batch n"]:
    """Masks each token with the probability `ratio`: the noise from which image-to-image starts."""
    return jnp.where(jax.random.uniform(key, tokens.shape) < ratio, mask_id, tokens)


def amused_decode(
    logits_fn: LogitsFn,
    tokens: Int[Array, "batch n"],
    key: Array,
    *,
    mask_id: int,
    num_steps: int,
    first_step: int = 0,
    choice_temperature: Float[Array, ""] | float = 2.0,
    schedule: str = "cosine",
    start_ratio: Float[Array, "batch 1"] | float = 1.0,
    on_step: Progress | StepCallback | None = None,
) -> Int[Array, "batch n"]:
    """Samples the tokens that are `mask_id`, in parallel.

    Step t samples all masked tokens from softmax(logits). It masks the floor(n `start_ratio` `ratio(t)`) of
    them again whose log-probability plus Gumbel noise is least, at least 1 and one fewer than before; the
    last step masks none. The noise of step t comes from
    `sample_key, choice_key = jax.random.split(jax.random.fold_in(key, t))`.

    Args:
      logits_fn: maps (tokens, step fraction (t+1)/T) to logits (batch, n, codes).
      tokens: codes, and `mask_id` where to sample.
      key: a key of `jax.random.key`.
      mask_id: above all codes.
      num_steps: T, static, at least 1.
      first_step: the first t, static, below `num_steps`; above 0, the schedules start in their middle.
      choice_temperature: scale of the noise at t = 0; it falls linearly to 0 at t = T - 1.
      schedule: of the ratio: "cosine" or "linear".
      start_ratio: share of the tokens masked at the start, for the linear schedule of inpainting.
      on_step: see `muse_jax.sampling.masked_decode`.

    Returns:
      int32 tokens without `mask_id`; tokens that were known at the start are unchanged.
    """
    tokens = jnp.asarray(tokens, jnp.int32)
    ratios = jnp.asarray(mask_ratios(num_steps, schedule))
    start_ratio = jnp.asarray(start_ratio, jnp.float32)

    def step(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        tokens, masked = state
        sample_key, choice_key = jax.random.split(jax.random.fold_in(key, t))
        logits = logits_fn(tokens, (t + 1).astype(jnp.float32) / num_steps)
        sampled, log_prob = sample_with_log_prob(sample_key, logits)
        filled = jnp.where(masked, sampled, tokens)
        temperature = choice_temperature * (1 - t / max(num_steps - 1, 1))
        noise = temperature * jax.random.gumbel(choice_key, log_prob.shape)
        count = jnp.floor(tokens.shape[1] * (start_ratio * ratios[t]))
        count = jnp.maximum(1, jnp.minimum(jnp.sum(masked, axis=-1, keepdims=True) - 1, count))
        masked = _least_confident(log_prob + noise, masked, count) & (t + 1 < num_steps)
        report_step(on_step, t + 1 - first_step, num_steps - first_step, jnp.sum(masked))
        return jnp.where(masked, mask_id, filled), masked

    return jax.lax.fori_loop(first_step, num_steps, step, (tokens, tokens == mask_id))[0]


def _least_confident(
    confidence: Float[Array, "batch n"], masked: Bool[Array, "batch n"], count: Array
) -> Bool[Array, "batch n"]:
    return masked & (ranks(jnp.where(masked, confidence, jnp.inf)) < count)
