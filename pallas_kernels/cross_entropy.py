"""Cross-entropy over a large vocabulary from hidden states, without the logits in memory.

Plain JAX, the same on every platform. The forward pass scans over parts of the vocabulary and keeps only the
log-sum-exp of each token. The backward pass recomputes the logits of each part: one more matrix product
saves tokens x vocabulary numbers of memory.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.numerics import NEGATIVE


def large_vocab_cross_entropy(
    hidden: Float[Array, "... width"],
    table: Float[Array, "vocab width"],
    bias: Float[Array, " vocab"],
    targets: Int[Array, "..."],
    *,
    chunk: int = 2048,
) -> Float[Array, "..."]:
    """Cross-entropy -log softmax(hidden @ table.T + bias)[target] of each token, in nats, float32.

    Differentiable in `hidden`, `table` and `bias`. Neither pass holds more than tokens x `chunk` logits.

    Args:
      hidden: float32 or bfloat16; the table is cast to its dtype, sums are float32.
      table: output embedding of each code.
      bias: of each code.
      targets: codes in [0, vocab).
      chunk: maximum number of codes per part, at least 1; the vocabulary is cut into equal parts.

    Raises:
      ValueError: if shapes disagree or `chunk` is not positive.
    """
    if hidden.shape[-1:] != table.shape[1:] or bias.shape != table.shape[:1]:
        raise ValueError(
            f"hidden has shape {hidden.shape}, table {table.shape} and bias {bias.shape}, but they must be "
            "(..., width), (vocab, width) and (vocab,)."
        )
    if targets.shape != hidden.shape[:-1] or not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(
            f"targets are {targets.dtype} of shape {targets.shape}, but hidden needs integers of shape "
            f"{hidden.shape[:-1]}."
        )
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, given {chunk}.")
    rows = hidden.reshape(-1, hidden.shape[-1])
    return _cross_entropy(rows, table, bias, targets.reshape(-1), chunk).reshape(targets.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _cross_entropy(hidden, table, bias, targets, chunk):
    return _forward(hidden, table, bias, targets, chunk)[0]


def _parts(table: Array, bias: Array, dtype, chunk: int) -> tuple[Array, Array, Array]:
    """First code, table and bias of equal parts; padding codes have probability zero."""
    vocab, width = table.shape
    count = -(-vocab // chunk)
    size = -(-vocab // count)
    table = jnp.pad(table, ((0, count * size - vocab), (0, 0))).astype(dtype)
    bias = jnp.pad(bias.astype(jnp.float32), (0, count * size - vocab), constant_values=-jnp.inf)
    return jnp.arange(count) * size, table.reshape(count, size, width), bias.reshape(count, size)


def _logits(hidden: Array, table: Array, bias: Array) -> Float[Array, "rows part"]:
    return jnp.einsum("rd,vd->rv", hidden, table, preferred_element_type=jnp.float32) + bias


def _forward(hidden, table, bias, targets, chunk):
    def step(carry, part):
        peak, total, hit = carry
        start, *weights = part
        logits = _logits(hidden, *weights)
        higher = jnp.maximum(peak, jnp.max(logits, axis=-1))
        total = total * jnp.exp(peak - higher) + jnp.sum(jnp.exp(logits - higher[:, None]), axis=-1)
        place = targets - start
        own = jnp.take_along_axis(logits, jnp.clip(place, 0, logits.shape[1] - 1)[:, None], axis=-1)[:, 0]
        return (higher, total, jnp.where((place >= 0) & (place < logits.shape[1]), own, hit)), None

    zeros = jnp.zeros(hidden.shape[:1], jnp.float32)
    parts = _parts(table, bias, hidden.dtype, chunk)
    (peak, total, hit), _ = jax.lax.scan(step, (zeros + NEGATIVE, zeros, zeros), parts)
    log_sum = peak + jnp.log(total)
    return log_sum - hit, (hidden, table, bias, targets, log_sum)


def _backward(chunk, saved, grad):
    hidden, table, bias, targets, log_sum = saved

    def step(hidden_grad, part):
        start, weights, added = part
        probabilities = jnp.exp(_logits(hidden, weights, added) - log_sum[:, None])
        is_target = jnp.arange(len(weights)) == (targets - start)[:, None]
        slopes = (probabilities - is_target) * grad[:, None]
        rounded = slopes.astype(hidden.dtype)
        product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        hidden_grad = hidden_grad + product("rv,vd->rd", rounded, weights)
        return hidden_grad, (product("rv,rd->vd", rounded, hidden), jnp.sum(slopes, axis=0))

    start = jnp.zeros(hidden.shape, jnp.float32)
    hidden_grad, grads = jax.lax.scan(step, start, _parts(table, bias, hidden.dtype, chunk))
    table_grad = grads[0].reshape(-1, table.shape[1])[: len(table)]
    bias_grad = grads[1].reshape(-1)[: len(bias)]
    return (
        hidden_grad.astype(hidden.dtype),
        table_grad.astype(table.dtype),
        bias_grad.astype(bias.dtype),
        None,
    )


_cross_entropy.defvjp(_forward, _backward)
