"""Cross-entropy without logits against optax's: values, gradients, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pallas_kernels.cross_entropy import large_vocab_cross_entropy

TOKENS, WIDTH = (2, 96), 16


def inputs(vocab, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    hidden, table = rng.normal(size=(*TOKENS, WIDTH)), rng.normal(size=(vocab, WIDTH))
    weights = jnp.asarray(rng.uniform(size=TOKENS), jnp.float32)
    targets = jnp.asarray(rng.integers(0, vocab, TOKENS).astype(np.int32).clip(1)).at[0, 0].set(0)
    targets = targets.at[1, -1].set(vocab - 1)
    bias = jnp.asarray(5 * rng.normal(size=vocab), jnp.float32)
    return jnp.asarray(hidden, dtype), jnp.asarray(table, dtype), bias, targets, weights


def with_logits(hidden, table, bias, targets):
    logits = jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32) + bias
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def value_and_grads(loss, hidden, table, bias, targets, weights):
    def total(*arguments):
        losses = loss(*arguments, targets)
        return jnp.sum(losses * weights), losses

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(hidden, table, bias)


@pytest.mark.parametrize("vocab, chunk", [(1000, 300), (7, 2048)])
def test_equals_optax_in_value_and_gradients(vocab, chunk):
    arguments = inputs(vocab)
    (_, losses), grads = value_and_grads(
        functools.partial(large_vocab_cross_entropy, chunk=chunk), *arguments
    )
    (_, expected), expected_grads = value_and_grads(with_logits, *arguments)
    assert losses.shape == TOKENS and losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
    for grad, wanted in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(grad, wanted, rtol=1e-4, atol=2e-5)


def test_bfloat16_states_are_summed_in_float32():
    arguments = inputs(500, jnp.bfloat16)
    (_, losses), grads = value_and_grads(functools.partial(large_vocab_cross_entropy, chunk=128), *arguments)
    wide = [x.astype(jnp.float32) for x in arguments[:3]]
    (_, expected), expected_grads = value_and_grads(with_logits, *wide, *arguments[3:])
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)
    assert [grad.dtype for grad in grads] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    for grad, wanted in zip(grads, expected_grads, strict=True):
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(np.asarray(grad, np.float32) / scale, wanted / scale, atol=1e-2)


def test_no_pass_holds_the_logits():
    vocab, chunk = 8192, 256
    *arrays, targets, weights = inputs(vocab)

    def temporary_bytes(loss):
        def total(*arguments):
            return jnp.sum(loss(*arguments, targets) * weights)

        program = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*arrays).compile()
        return program.memory_analysis().temp_size_in_bytes

    logits = np.prod(TOKENS) * vocab * 4
    assert temporary_bytes(with_logits) > logits  # the measure sees them where they are
    # A few arrays of one part and a copy of the gradients.
    limit = 6 * np.prod(TOKENS) * chunk * 4 + 2 * vocab * WIDTH * 4
    assert temporary_bytes(functools.partial(large_vocab_cross_entropy, chunk=chunk)) < limit < logits


def test_disagreeing_shapes_are_refused():
    hidden, table, bias, targets, _ = inputs(20)
    with pytest.raises(ValueError, match=r"bias \(19,\), but they must be"):
        large_vocab_cross_entropy(hidden, table, bias[1:], targets)
    with pytest.raises(ValueError, match="targets are float32"):
        large_vocab_cross_entropy(hidden, table, bias, targets.astype(jnp.float32))
    with pytest.raises(ValueError, match="chunk must be at least 1, given 0"):
        large_vocab_cross_entropy(hidden, table, bias, targets, chunk=0)
