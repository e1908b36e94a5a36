"""All implementations against logits, noise and argmax in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from pallas_kernels.masked_sampling import masked_sampling, sample_logits
from pallas_kernels.masked_sampling.gumbel import gumbel, seed_words

FORMS = ("reference", "xla")
noise_of = jax.jit(gumbel, static_argnums=(1, 2))


def inputs(batch=2, n=3, width=16, vocab=600, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    hidden, uncond = rng.normal(size=(2, batch, n, width)) / np.sqrt(width)
    table, bias = rng.normal(size=(vocab, width)), rng.normal(size=vocab)
    return [jnp.asarray(x, dtype) for x in (hidden, uncond, table)] + [jnp.asarray(bias, jnp.float32)]


def by_hand(hidden, table, bias, key, temperature, guidance=None, uncond=None):
    """NumPy in float64, with guidance applied to the logits."""
    hidden, table, bias = (np.asarray(x, np.float64) for x in (hidden, table, bias))
    logits = hidden @ table.T + bias
    if uncond is not None:
        scale = np.reshape(guidance, (-1, 1, 1))
        logits = (1 + scale) * logits - scale * (np.asarray(uncond, np.float64) @ table.T + bias)
    scaled = logits / temperature
    noise = np.asarray(noise_of(seed_words(key), hidden.shape[0] * hidden.shape[1], len(bias)))
    token = (scaled + noise.reshape(logits.shape)).argmax(-1)
    return token, np.take_along_axis(special.log_softmax(scaled, axis=-1), token[..., None], -1)[..., 0]


def check(got, expected, rtol=1e-4):
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_allclose(got[1], expected[1], rtol=rtol, atol=1e-4)
    assert got[0].dtype == jnp.int32 and got[1].dtype == jnp.float32


@functools.partial(jax.jit, static_argnames="form")
def draw(hidden, table, bias, key, temperature, guidance=None, uncond=None, form="xla"):
    return masked_sampling(
        hidden, table, bias, key,
        temperature=temperature, guidance=guidance, uncond_hidden=uncond, implementation=form,
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("vocab", [11, 2100])
def test_tokens_and_log_probs_follow_the_definition(form, vocab):
    hidden, _, table, bias = inputs(vocab=vocab)
    for seed, temperature in [(0, 1.0), (1, 0.3), (2, 4.0)]:
        key = jax.random.key(seed)
        check(
            draw(hidden, table, bias, key, temperature, form=form),
            by_hand(hidden, table, bias, key, temperature),
        )


@pytest.mark.parametrize("guidance", [2.5, np.array([0.0, 3.0], np.float32)])
def test_guidance_equals_that_of_the_logits_for_any_shape_of_the_scale(guidance):
    hidden, uncond, table, bias = inputs()
    key = jax.random.key(4)
    got = draw(hidden, table, bias, key, 0.8, guidance, uncond)
    check(got, by_hand(hidden, table, bias, key, 0.8, guidance, uncond))


def test_materialized_logits_give_the_same_samples():
    hidden, _, table, bias = inputs(vocab=600)
    key = jax.random.key(5)
    got = jax.jit(sample_logits)(hidden @ table.T + bias, key, temperature=0.7)
    check(got, by_hand(hidden, table, bias, key, 0.7))


def test_a_sample_does_not_depend_on_the_batch_and_keys_of_any_kind_work():
    hidden, _, table, bias = inputs(batch=3)
    key = jax.random.key(6, impl="rbg")
    token, log_prob = draw(hidden, table, bias, key, 1.0)
    alone, alone_log_prob = draw(hidden[:2], table, bias, key, 1.0)
    np.testing.assert_array_equal(token[:2], alone)
    np.testing.assert_allclose(log_prob[:2], alone_log_prob, rtol=1e-5)
    other, _ = draw(hidden, table, bias, jax.random.key(7, impl="rbg"), 1.0)
    assert (token != other).any()


def test_temperature_zero_is_greedy():
    hidden, _, table, bias = inputs(batch=3)
    token, log_prob = draw(hidden, table, bias, jax.random.key(0), 0.0)
    np.testing.assert_array_equal(token, (hidden @ table.T + bias).argmax(-1))
    np.testing.assert_allclose(log_prob, 0, atol=1e-3)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"guidance": 1.0}, "pass both or neither"),
        ({"guidance": 1.0, "uncond_hidden": jnp.zeros((1, 3, 16))}, "give both passes the same shape"),
        ({"hidden": jnp.zeros((2, 3, 8))}, r"hidden has shape \(2, 3, 8\) and table \(600, 16\)"),
        ({"bias": jnp.zeros(599)}, r"the table of 600 codes needs \(600,\)"),
        ({"implementation": "tpu"}, "JAX runs on cpu"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    hidden, _, table, bias = inputs()
    arguments = {"hidden": hidden, "table": table, "bias": bias, "key": jax.random.key(0), "temperature": 1.0}
    with pytest.raises(ValueError, match=message):
        masked_sampling(**(arguments | change))
