"""Evidence for a caption in the tokens of an image, by the network that generated them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from muse_jax.nn.heads import LinearLogits
from muse_jax.sampling.guidance import Logits, halves, pair
from muse_jax.sampling.schedules import ranks
from pallas_kernels.cross_entropy import large_vocab_cross_entropy


def caption_evidence(
    apply: Callable[..., Logits],
    params: Any,
    tokens: Int[Array, "batch n"],
    cond: tuple[Any, ...],
    uncond: tuple[Any, ...],
    key: Array,
    *,
    mask_id: int,
    num_pairs: int = 2,
) -> Float[Array, " batch"]:
    """How much more probable the caption makes the tokens: mean of log p(token | caption) - log p(token).

    Every token is predicted `num_pairs` times from about half of the others: the tokens are split at random
    into two halves, each of which is masked once. All samples share the splits, so that the candidates of one
    caption are compared fairly. CogView2 (section 3.2) ranks candidates by the caption's perplexity, which a
    network that does not generate text cannot compute; by Bayes' rule, this takes its place.

    Args:
      apply, params, cond, uncond: as for `guided_logits_fn`.
      tokens: codes of whole images.
      key: a key of `jax.random.key`.
      mask_id: id of a masked token.
      num_pairs: splits, static, at least 1; each takes two passes of both conditions.

    Returns:
      nats per token.
    """
    n = tokens.shape[1]
    lottery = jax.vmap(lambda key: jax.random.uniform(key, (n,)))(jax.random.split(key, num_pairs))
    first = ranks(lottery) < n // 2
    conditions = jax.tree.map(pair, tuple(cond), tuple(uncond))

    def evidence(masked: Array) -> Array:
        hidden = jnp.where(masked, mask_id, tokens)
        log_probs = _log_prob(apply(params, pair(hidden, hidden), *conditions), pair(tokens, tokens))
        with_caption, without = halves(log_probs)
        return jnp.sum((with_caption - without) * masked, axis=1)

    return jnp.sum(jax.lax.map(evidence, jnp.concatenate([first, ~first])), axis=0) / (num_pairs * n)


def _log_prob(logits: Logits, tokens: Int[Array, "batch n"]) -> Float[Array, "batch n"]:
    if isinstance(logits, LinearLogits):
        return -large_vocab_cross_entropy(*logits, tokens)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    return jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
