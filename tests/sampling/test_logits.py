import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from muse_jax.nn.heads import LinearLogits, unembed
from muse_jax.sampling import masked_decode, sample_with_log_prob, top_k_filter, top_p_filter
from muse_jax.sampling.logits import apply_temperature, gumbel_argmax

LOGITS = np.array([1.5, -0.5, 0.0, 2.0, -2.0], np.float32)
draw = jax.jit(sample_with_log_prob)


def key(seed):
    return jax.random.key(seed, impl="rbg")


def chi_square(tokens, probabilities):
    expected = tokens.size * probabilities
    return np.sum((np.bincount(tokens.ravel(), minlength=len(expected)) - expected) ** 2 / expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_and_log_probs_match_the_softmax(temperature):
    token, log_prob = draw(key(0), jnp.tile(LOGITS, (20_000, 1)), temperature)
    expected = special.log_softmax(LOGITS.astype(np.float64) / temperature)
    assert chi_square(np.array(token), np.exp(expected)) < 23.5  # 4 degrees of freedom, p = 1e-4
    np.testing.assert_allclose(log_prob, expected[token], rtol=1e-5, atol=1e-6)
    assert token.dtype == jnp.int32 and log_prob.dtype == jnp.float32


def test_the_temperature_is_one_by_default():
    token, log_prob = draw(key(6), jnp.tile(LOGITS, (8, 1)))
    np.testing.assert_allclose(log_prob, special.log_softmax(LOGITS)[token], rtol=1e-5)


def test_linear_logits_give_the_same_samples_as_materialized_logits():
    rng = np.random.default_rng(3)
    hidden, table, bias = (rng.normal(size=size).astype(np.float32) for size in ((2, 6, 4), (9, 4), (9,)))
    expected = draw(key(7), unembed(hidden, table, bias), 0.5)
    token, log_prob = draw(key(7), LinearLogits(hidden, table, bias), 0.5)
    np.testing.assert_array_equal(token, expected[0])
    np.testing.assert_allclose(log_prob, expected[1], rtol=1e-5)
    assert len(np.unique(token)) > 2


def test_low_precision_logits_are_sampled_in_float32():
    """bfloat16 noise has too few distinct values for 4096 equal codes: some would be sampled too often."""
    token, log_prob = draw(key(1), jnp.zeros((4000, 4096), jnp.bfloat16))
    assert log_prob.dtype == jnp.float32
    assert len(np.unique(token)) > 2300  # 4096 (1 - exp(-4000/4096)) = 2553 expected


def test_a_temperature_divides_the_logits_and_zero_counts_as_a_millionth():
    np.testing.assert_allclose(apply_temperature(LOGITS, 0.5), 2 * LOGITS)
    np.testing.assert_allclose(apply_temperature(LOGITS, 0.0), 1e6 * LOGITS, rtol=1e-6)
    assert apply_temperature(jnp.zeros(3, jnp.bfloat16), 1.0).dtype == jnp.float32


def test_a_sample_is_the_argmax_of_logits_plus_gumbel_noise():
    logits = np.random.default_rng(2).normal(size=(2, 3, 5)).astype(np.float32)
    drawn = gumbel_argmax(key(5), logits)
    np.testing.assert_array_equal(drawn, np.argmax(logits + jax.random.gumbel(key(5), logits.shape), axis=-1))
    assert drawn.dtype == jnp.int32


@functools.partial(jax.jit, static_argnames="order")
def decode(tokens, key, choice_temperature, order):
    logits = jnp.broadcast_to(LOGITS, (*tokens.shape, len(LOGITS)))
    return masked_decode(
        lambda *_: logits,
        tokens,
        key,
        mask_id=len(LOGITS),
        num_steps=5,
        choice_temperature=choice_temperature,
        order=order,
        grid=(4, 4),
    )


def test_halton_decoding_is_unbiased_if_context_does_not_matter():
    tokens = np.array(decode(np.full((2000, 16), 5), key(2), 0.0, "halton"))
    assert chi_square(tokens, special.softmax(LOGITS)) < 23.5


def test_confidence_without_selection_by_probability_is_unbiased_and_with_it_is_not():
    """Large choice noise keeps the softmax's distribution; without it, probable codes are preferred."""
    probabilities = special.softmax(LOGITS)
    start = np.full((2000, 16), 5)
    # The noise decreases over the steps (to none at the last, which keeps all), hence the huge temperature.
    drowned = np.array(decode(start, key(3), 1e6, "confidence"))
    assert chi_square(drowned, probabilities) < 23.5
    greedy = np.array(decode(start, key(4), 0.0, "confidence"))
    assert np.mean(greedy == 3) > probabilities[3] + 0.1


def test_filters_keep_the_largest_logits():
    logits = np.random.default_rng(0).normal(size=(7, 20)).astype(np.float32)
    for k in (1, 3, 20, 50):
        for row, got in zip(logits, np.array(top_k_filter(logits, k)), strict=True):
            best = np.argsort(-row)[:k]
            np.testing.assert_array_equal(got, np.where(np.isin(np.arange(20), best), row, -np.inf))
    for p in (1e-9, 0.3, 0.9, 1.0):
        filtered = np.array(top_p_filter(logits, p))
        for row, got in zip(logits, filtered, strict=True):
            order, total, expected = np.argsort(-row), 0.0, set()
            for code in order:
                if total >= p and expected:
                    break
                expected.add(code)
                total += special.softmax(row.astype(np.float64))[code]
            kept = np.isin(np.arange(20), list(expected))
            np.testing.assert_array_equal(got, np.where(kept, row, -np.inf))
    with pytest.raises(ValueError, match="at least 1 token, given 0"):
        top_k_filter(logits, 0)


def test_filters_keep_to_the_last_axis():
    logits = np.random.default_rng(1).normal(size=(2, 3, 6)).astype(np.float32)
    for keep in (functools.partial(top_k_filter, k=2), functools.partial(top_p_filter, p=0.6)):
        rows = [keep(row) for row in logits.reshape(-1, 6)]
        np.testing.assert_array_equal(np.array(keep(logits)).reshape(-1, 6), rows)


def test_top_p_keeps_the_fewest_tokens_that_reach_p():
    kept = top_p_filter(jnp.log(jnp.array([2.0, 1.0, 1.0])), 0.5)  # probabilities 1/2, 1/4, 1/4
    assert np.isfinite(kept).tolist() == [True, False, False]
