"""aMUSEd's sampler against its rule written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.sampling.logits import sample_with_log_prob
from muse_jax.systems.amused.sampling import amused_decode, mask_ratios, mask_tokens

MASK, CODES, LENGTH = 9, 7, 11


def logits_fn(tokens, _):
    """Logits that depend on all tokens."""
    table = jax.random.normal(jax.random.key(5), (MASK + 1, LENGTH, CODES))
    mixed = jnp.sum(jax.nn.one_hot(tokens, MASK + 1) @ table.sum(1), axis=1, keepdims=True)
    return jnp.sin(mixed + table[tokens, jnp.arange(LENGTH)])


def by_the_rule(tokens, key, num_steps, first_step, temperature, ratio):
    """The decoder as a plain loop over samples and positions."""
    tokens = np.array(tokens)
    start = (tokens == MASK).mean(1)
    for t in range(first_step, num_steps):
        sample_key, choice_key = jax.random.split(jax.random.fold_in(key, t))
        drawn, log_prob = map(np.asarray, sample_with_log_prob(sample_key, logits_fn(jnp.asarray(tokens), 0)))
        noise = np.asarray(jax.random.gumbel(choice_key, tokens.shape))
        for row in range(len(tokens)):
            unknown = np.flatnonzero(tokens[row] == MASK)
            tokens[row, unknown] = drawn[row, unknown]
            if t + 1 == num_steps or not len(unknown):
                continue
            count = max(1, min(len(unknown) - 1, int(LENGTH * ratio(t, start[row]))))
            scale = temperature * (1 - t / (num_steps - 1))
            confidence = log_prob[row, unknown] + scale * noise[row, unknown]
            tokens[row, unknown[np.argsort(confidence)[:count]]] = MASK
    return tokens


@pytest.mark.parametrize("first_step", [0, 2])
def test_generation(first_step):
    tokens = jnp.full((3, LENGTH), MASK)
    if first_step:
        tokens = mask_tokens(jnp.full((3, LENGTH), 2), jax.random.key(1), mask_id=MASK, ratio=0.6)
    key = jax.random.key(0)
    found = amused_decode(
        logits_fn, tokens, key, mask_id=MASK, num_steps=5, first_step=first_step, choice_temperature=1.5
    )
    expected = by_the_rule(tokens, key, 5, first_step, 1.5, lambda t, _: np.cos(np.pi / 2 * (t + 1) / 5))
    np.testing.assert_array_equal(found, expected)


def test_linear_schedule_from_the_share_that_is_masked():
    tokens = jnp.where(jax.random.bernoulli(jax.random.key(2), 0.7, (3, LENGTH)), MASK, 1)
    tokens = tokens.at[2].set(1)  # nothing to draw
    key, share = jax.random.key(0), jnp.mean(tokens == MASK, axis=1, keepdims=True)
    found = amused_decode(
        logits_fn, tokens, key, mask_id=MASK, num_steps=4, schedule="linear", start_ratio=share
    )
    expected = by_the_rule(tokens, key, 4, 0, 2.0, lambda t, start: start * (1 - (t + 1) / 4))
    np.testing.assert_array_equal(found, expected)


def test_one_step_draws_everything():
    tokens = amused_decode(
        logits_fn, jnp.full((1, LENGTH), MASK), jax.random.key(0), mask_id=MASK, num_steps=1
    )
    assert (tokens < CODES).all()


def test_ratios():
    np.testing.assert_allclose(
        mask_ratios(4, "cosine"), [np.cos(np.pi / 8 * i) for i in (1, 2, 3, 4)], atol=1e-7
    )
    np.testing.assert_allclose(mask_ratios(4, "linear"), [0.75, 0.5, 0.25, 0])
    masked = mask_tokens(jnp.zeros((50, 100), int), jax.random.key(0), mask_id=3, ratio=0.3)
    assert abs(jnp.mean(masked == 3) - 0.3) < 0.02
