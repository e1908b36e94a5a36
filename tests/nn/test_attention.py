"""Attention against a loop in float64 and against plain softmax."""

import jax
import jax.numpy as jnp
import numpy as np

from muse_jax.nn.attention import Attention, attend

KEY = jax.random.key(0)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def softmax_attention(query, key, value, allowed):
    """Position by position, in float64. `allowed[q]` lists the keys that query q sees."""
    out = np.zeros(query.shape)
    for q, keys in enumerate(allowed):
        logits = key[keys] @ query[q] / np.sqrt(query.shape[-1])
        weights = np.exp(logits - logits.max()) if len(keys) else logits
        out[q] = (weights / weights.sum()) @ value[keys] if len(keys) else 0
    return out


def test_attend_is_masked_softmax_attention_and_zero_without_keys():
    query, key, value = normal(3, 2, 4, 8), normal(3, 2, 5, 8, seed=1), normal(3, 2, 5, 8, seed=2)
    mask = jnp.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
    out = attend(query, key, value, mask)
    for b in range(3):
        keys = list(np.flatnonzero(mask[b]))
        for h in range(2):
            arrays = (np.asarray(a[b, h], np.float64) for a in (query, key, value))
            np.testing.assert_allclose(out[b, h], softmax_attention(*arrays, [keys] * 4), atol=1e-5)


def test_attend_adds_a_bias_to_scores_of_a_given_scale():
    query, key, value = normal(3, 2, 4, 8), normal(3, 2, 5, 8, seed=1), normal(3, 2, 5, 8, seed=2)
    bias = normal(1, 2, 4, 5, seed=3)
    weights = jax.nn.softmax(0.7 * jnp.einsum("bhqd,bhkd->bhqk", query, key) + bias)
    out = attend(query, key, value, bias=bias, scale=0.7)
    np.testing.assert_allclose(out, jnp.einsum("bhqk,bhkd->bhqd", weights, value), atol=1e-5)


def test_attend_has_the_gradient_of_plain_softmax():
    def plain(query, key, value):
        weights = jax.nn.softmax(jnp.einsum("bhqd,bhkd->bhqk", query, key) / jnp.sqrt(8))
        return jnp.sum(jnp.sin(jnp.einsum("bhqk,bhkd->bhqd", weights, value)))

    arrays = normal(1, 2, 4, 8), normal(1, 2, 5, 8, seed=1), normal(1, 2, 5, 8, seed=2)
    found = jax.grad(lambda *a: jnp.sum(jnp.sin(attend(*a))), (0, 1, 2))(*arrays)
    for got, want in zip(found, jax.grad(plain, (0, 1, 2))(*arrays), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_attend_without_keys_has_a_finite_gradient():
    arrays = normal(1, 1, 2, 4), normal(1, 1, 3, 4), normal(1, 1, 3, 4)
    grads = jax.grad(lambda *a: jnp.sum(attend(*a, jnp.zeros((1, 3), bool))), (0, 1, 2))(*arrays)
    assert all(jnp.all(grad == 0) for grad in grads)


def test_self_attention_is_equivariant_to_permutations_of_tokens():
    attention = Attention(heads=2)
    x, order = normal(2, 6, 8), np.array([3, 1, 5, 0, 2, 4])
    params = attention.init(KEY, x)
    np.testing.assert_allclose(
        attention.apply(params, x[:, order]), attention.apply(params, x)[:, order], atol=1e-5
    )
