"""Drawing tokens one after the other, each given all before it: one compiled loop over a cache.

The functions are pure and made to be called under `jax.jit`. Shapes are static and how many tokens are drawn
is not, so that one program serves texts of all lengths and regions of all sizes. Step t = 0, 1, .. draws its
noise from `jax.random.fold_in(key, t)`.
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
"""(token (batch,), its place (batch,), cache) -> logits (batch, vocab) of the token after it, and a cache."""


@struct.dataclass
class Sampling:
    """How a token is drawn from logits; goes through `jit`, where only the filters' sizes are static."""

    temperature: Float[Array, ""] | float = 1.0
    """0 is greedy."""
    top_k: int = struct.field(pytree_node=False, default=0)
    """Keep so many of the most probable tokens; 0: all."""
    top_p: Float[Array, ""] | float | None = None
    """Keep the fewest that have this probability together; None: all."""
    clusters: Int[Array, " codes"] | None = None
    """Of each code its cluster, for cluster sampling; None: codes are drawn one by one."""
    num_clusters: int = struct.field(pytree_node=False, default=0)
    top_clusters: int = struct.field(pytree_node=False, default=0)
    """Keep so many of the most probable clusters; 0: all."""
    inner_temperature: Float[Array, ""] | float = 1.0
    """Divides the logits once more for the draw inside a cluster."""

    def __call__(self, key: Array, logits: Float[Array, "... vocab"]) -> Int[Array, "..."]:
        """Draws int32 tokens."""
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
                "be drawn here; make clusters of this tokenizer with experiments.cluster_codebook."
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
    """What the loop carries from step to step."""

    step: Int[Array, ""]
    tokens: Int[Array, "batch n"]
    """Those given, and those drawn so far."""
    ended: Bool[Array, " batch"]
    """Whether `end_id` was drawn: then it is all that follows."""
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
    """Draw the tokens that are `drawn`, from left to right, each given the cache and those before it.

    The network reads the tokens of the region alone: those that are drawn, and those left of them, which
    start a run. What else is known is in the cache already. Each is read once, in order; where the next one
    is to be drawn, the network's answer is where it is drawn from.

    Args:
      next_logits_fn: reads one token of each sample.
      cache: whatever that function passes on.
      tokens: what is given; ignored where `drawn`.
      drawn: samples may differ. False for the first token.
      key: a key of `jax.random.key`.
      sampling: how to draw from logits.
      end_id: once drawn, the sample's later tokens are all this one.
      on_step: as for `masked_decode`.

    Returns:
      int32 tokens; those that are not `drawn` are unchanged.

    Raises:
      ValueError: shapes that do not agree.
    """
    if jnp.ndim(tokens) != 2 or jnp.shape(drawn) != jnp.shape(tokens):
        raise ValueError(
            f"tokens and drawn must have one shape (batch, n), given {jnp.shape(tokens)} "
            f"and {jnp.shape(drawn)}."
        )
    tokens, drawn = jnp.asarray(tokens, jnp.int32), jnp.asarray(drawn, bool).at[:, 0].set(False)
    batch, length = tokens.shape
    sample = jnp.arange(batch)
    follows = jnp.roll(drawn, -1, axis=1)  # the next one is drawn; never wraps, as the first is not
    region = drawn | follows
    order = jnp.argsort(~region, axis=1, stable=True)
    count = jnp.sum(region, axis=1)

    def unfinished(state: AutoregressiveState) -> Array:
        return (state.step < jnp.max(count) - 1) & ~jnp.all(state.ended)

    def step(state: AutoregressiveState) -> AutoregressiveState:
        t = state.step
        # A sample that is done reads its last token again, and draws nothing.
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
