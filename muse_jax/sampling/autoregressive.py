"""Autoregressive decoding: tokens sampled one after the other, in one compiled loop over a cache.

The functions are pure and meant to run under `jax.jit`. Shapes are static, but the number of sampled tokens
is not: one program serves texts of any length and regions of any size. Step t = 0, 1, ... draws its noise
from `jax.random.fold_in(key, t)`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from muse_jax.sampling.clusters import sample_by_cluster
from muse_jax.sampling.logits import apply_temperature, gumbel_argmax, top_k_filter, top_p_filter
from muse_jax.sampling.progress import Progress, StepCallback, report_step

NextLogitsFn = Callable[[Array, Array, Any], tuple[Array, Any]]
"""(token (batch,), its position (batch,), cache) -> logits (batch, vocab) of the next token, new cache."""


@struct.dataclass
class Sampling:
    """Parameters for sampling a token from logits; a pytree in which the filters' sizes are static."""

    temperature: Float[Array, ""] | float = 1.0
    """0 or greater; 0 is greedy."""
    top_k: int = struct.field(pytree_node=False, default=0)
    """Number of most probable tokens kept; 0 keeps all."""
    top_p: Float[Array, ""] | float | None = None
    """Nucleus threshold in (0, 1]; None keeps all tokens."""
    clusters: Int[Array, " codes"] | None = None
    """Cluster of each code, for cluster sampling; None samples codes directly."""
    num_clusters: int = struct.field(pytree_node=False, default=0)
    top_clusters: int = struct.field(pytree_node=False, default=0)
    """Number of most probable clusters kept; 0 keeps all."""
    inner_temperature: Float[Array, ""] | float = 1.0
    """Divides the logits once more for the draw within a cluster."""

    def __call__(self, key: Array, logits: Float[Array, "... vocab"]) -> Int[Array, "..."]:
        """Samples int32 tokens.

        Raises:
          ValueError: if the clusters belong to a codebook of another size.
        """
        logits = apply_temperature(logits, self.temperature)
        if self.top_k:
            logits = top_k_filter(logits, self.top_k)
        if self.top_p is not None:
            logits = top_p_filter(logits, self.top_p)
        if self.clusters is None:
            return gumbel_argmax(key, logits)
        if self.clusters.shape != logits.shape[-1:]:
            raise ValueError(
                f"The clusters are of a codebook with {len(self.clusters)} codes, but {logits.shape[-1]} can "
                "be sampled here; make clusters of this tokenizer with experiments.cluster_codebook."
            )
        return sample_by_cluster(
            key,
            logits,
            self.clusters,
            num_clusters=self.num_clusters,
            top_clusters=self.top_clusters or self.num_clusters,
            inner_temperature=self.inner_temperature,
        )


@struct.dataclass
class AutoregressiveState:
    """State that the decoding loop carries from step to step."""

    step: Int[Array, ""]
    tokens: Int[Array, "batch n"]
    """Given tokens, and those sampled so far."""
    ended: Bool[Array, " batch"]
    """True once `end_id` was sampled; all later tokens are `end_id`."""
    cache: Any


def autoregressive_decode(
    next_logits_fn: NextLogitsFn,
    cache: Any,
    tokens: Int[Array, "batch n"],
    drawn: Bool[Array, "batch n"],
    key: Array,
    *,
    sampling: Sampling,
    end_id: int | None = None,
    on_step: Progress | StepCallback | None = None,
) -> Int[Array, "batch n"]:
    """Samples the tokens where `drawn` is True, from left to right, given the cache and the tokens before.

    The network reads only sampled tokens and the token to the left of each run of them, once and in order.
    All other known tokens must be in the cache already.

    Args:
      next_logits_fn: reads one token of each sample.
      cache: passed to `next_logits_fn` and replaced by what it returns.
      tokens: given tokens; ignored where `drawn`.
      drawn: True where to sample. Samples may differ; the first token counts as False.
      key: a key of `jax.random.key`.
      sampling: how to sample from logits.
      end_id: once sampled, all later tokens of the sample are `end_id`; None samples all.
      on_step: as for `masked_decode`.

    Returns:
      int32 tokens; those that are not `drawn` are unchanged.

    Raises:
      ValueError: if the shapes of `tokens` and `drawn` differ.
    """
    if jnp.ndim(tokens) != 2 or jnp.shape(drawn) != jnp.shape(tokens):
        raise ValueError(
            f"tokens and drawn must have one shape (batch, n), given {jnp.shape(tokens)} "
            f"and {jnp.shape(drawn)}."
        )
    tokens, drawn = jnp.asarray(tokens, jnp.int32), jnp.asarray(drawn, bool).at[:, 0].set(False)
    batch, length = tokens.shape
    sample = jnp.arange(batch)
    follows = jnp.roll(drawn, -1, axis=1)  # never wraps around, because the first token is not sampled
    region = drawn | follows
    order = jnp.argsort(~region, axis=1, stable=True)
    count = jnp.sum(region, axis=1)

    def unfinished(state: AutoregressiveState) -> Array:
        return (state.step < jnp.max(count) - 1) & ~jnp.all(state.ended)

    def step(state: AutoregressiveState) -> AutoregressiveState:
        t = state.step
        # A finished sample reads its last token again and samples nothing.
        place = order[sample, jnp.clip(t, 0, count - 1)]
        logits, cache = next_logits_fn(state.tokens[sample, place], place, state.cache)
        token = sampling(jax.random.fold_in(key, t), logits)
        ended = state.ended
        if end_id is not None:
            token = jnp.where(ended, end_id, token)
        draws = follows[sample, place]
        after = jnp.minimum(place + 1, length - 1)
        token = jnp.where(draws, token, state.tokens[sample, after])
        if end_id is not None:
            ended = ended | (draws & (token == end_id))
        left = jnp.sum(jnp.where(jnp.arange(length) > after[:, None], drawn, False))
        report_step(on_step, t + 1, length - 1, left)
        return AutoregressiveState(t + 1, state.tokens.at[sample, after].set(token), ended, cache)

    start = tokens if end_id is None else jnp.where(drawn, end_id, tokens)
    state = AutoregressiveState(jnp.int32(0), start, jnp.zeros(batch, bool), cache)
    return jax.lax.while_loop(unfinished, step, state).tokens
