"""The generator against published vectors, JAX's Threefry and the expected distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from pallas_kernels.masked_sampling.gumbel import LANES, gumbel, gumbel_from_bits, seed_words, threefry_2x32

ONES = 0xFFFFFFFF
generate = jax.jit(threefry_2x32)
noise_of = jax.jit(gumbel, static_argnums=(1, 2))


def words(key, counter):
    pair = generate(*(tuple(jnp.uint32(word) for word in words) for words in (key, counter)))
    return tuple(int(word) for word in pair)


@pytest.mark.parametrize(
    "key, counter, expected",
    [
        # Random123's known answers for threefry2x32, 20 rounds.
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((ONES, ONES), (ONES, ONES), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_vectors(key, counter, expected):
    assert words(key, counter) == expected


def test_threefry_gives_the_words_of_jax():
    """In JAX's partitionable Threefry, element i of an array has counter (0, i) and xors its words."""
    key = jax.random.key(7)
    with jax.threefry_partitionable(True):
        bits = jax.random.bits(key, (1000,), jnp.uint32)
    first, second = jax.random.key_data(key)
    x, y = generate((first, second), (jnp.uint32(0), jnp.arange(1000, dtype=jnp.uint32)))
    np.testing.assert_array_equal(x ^ y, bits)


def test_each_entry_uses_the_word_of_its_own_counter():
    rows, vocab = 3, 600  # not a multiple of the 256 entries that a vector of counters serves
    seed = seed_words(jax.random.key(1, impl="rbg"))
    noise = noise_of(seed, rows, vocab)
    assert noise.shape == (rows, vocab) and noise.dtype == jnp.float32
    for row, index in [(0, 0), (0, 127), (1, 128), (2, 255), (2, 256), (1, 511), (2, 599)]:
        counter = index // 256 * LANES + index % LANES
        word = words((int(seed[0]), int(seed[1])), (row, counter))[index // LANES % 2]
        np.testing.assert_allclose(noise[row, index], gumbel_from_bits(jnp.uint32(word)), rtol=1e-6)


def test_noise_is_gumbel_distributed_along_both_axes():
    noise = np.array(noise_of(seed_words(jax.random.key(3)), 256, 2048))
    assert stats.kstest(noise.ravel(), "gumbel_r").pvalue > 1e-3
    # Neighbours in either axis, and the two words of a call, are not correlated.
    for a, b in [(noise[:, 1:], noise[:, :-1]), (noise[1:], noise[:-1]), (noise[:, :-128], noise[:, 128:])]:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) * np.sqrt(a.size) < 4
    winners = np.bincount(noise.argmax(axis=1) // 128, minlength=16)
    assert stats.chisquare(winners).pvalue > 1e-3


def test_extreme_bits_give_finite_noise_and_both_tails_are_exact():
    bits = np.array([0, 1, 2, 3, 2**31, ONES], np.uint32)
    noise = np.array(gumbel_from_bits(jnp.asarray(bits)), np.float64)
    uniform = np.minimum(((bits >> 1).astype(np.float64) + 0.5) / 2**31, 1 - 2.0**-24)
    np.testing.assert_allclose(noise, -np.log(-np.log1p(-uniform)), rtol=1e-5)
    assert np.isfinite(noise).all() and noise[0] > 22 and (np.diff(noise) <= 0).all()
