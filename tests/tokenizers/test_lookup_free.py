"""FSQ and LFQ against loops over levels, bits and codes."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import entropy

from muse_jax.tokenizers.lookup_free import (
    FiniteScalarQuantizer,
    LookupFreeQuantizer,
    bit_entropy_loss,
)

LEVELS = (4, 3, 3, 4)


def fsq(groups):
    return FiniteScalarQuantizer(LEVELS, math.prod(LEVELS[: 4 // groups]), groups)


def vectors(bits=4):
    return 2 * jax.random.normal(jax.random.key(0), (3, 5, bits))


def bounded(value, levels):
    half = (levels - 1) * (1 - 1e-3) / 2
    offset = 0.5 if levels % 2 == 0 else 0.0
    return math.tanh(value + math.atanh(offset / half)) * half - offset


@pytest.mark.parametrize("groups", [1, 2])
def test_fsq_levels_equal_those_of_a_loop(groups):
    quantized = fsq(groups).apply({}, vectors())
    for place in itertools.product(range(3), range(5)):
        digits, codes = [], []
        for value, levels in zip(np.asarray(vectors(), np.float64)[place], LEVELS, strict=True):
            whole = [level - levels // 2 for level in range(levels)]
            nearest = min(whole, key=lambda level: abs(level - bounded(value, levels)))
            digits.append(whole.index(nearest))
            codes.append(nearest / (levels // 2))
        np.testing.assert_allclose(quantized.codes[place], codes, atol=1e-6)
        first, second = digits[0] + 4 * digits[1], digits[2] + 3 * digits[3]
        expected = [first, second] if groups == 2 else first + 12 * second
        assert np.asarray(quantized.ids[place]).tolist() == expected


@pytest.mark.parametrize("groups", [1, 2])
def test_fsq_has_no_losses_and_counts_its_codes(groups):
    quantized = fsq(groups).apply({}, vectors())
    assert quantized.codebook_loss == quantized.commitment_loss == quantized.entropy_loss == 0
    columns = np.asarray(quantized.ids).reshape(15, groups).T
    counts = [np.unique(column, return_counts=True)[1] for column in columns]
    used = np.mean([len(count) for count in counts]) / fsq(groups).codebook_size
    np.testing.assert_allclose(quantized.usage, used, rtol=1e-6)
    np.testing.assert_allclose(quantized.perplexity, np.mean([np.exp(entropy(c)) for c in counts]), rtol=1e-5)


def test_ids_beyond_the_integers_of_float32_are_exact():
    lfq, bits = LookupFreeQuantizer(26, 2**26), jnp.where(jnp.arange(26) % 25 == 0, 1.0, -1.0)
    assert lfq.apply({}, bits, method="nearest") == 2**25 + 1
    np.testing.assert_array_equal(lfq.apply({}, jnp.int32(2**25 + 1), method="lookup"), bits)
    module, half = FiniteScalarQuantizer((64,) * 5, 2**30), 63 * (1 - 1e-3) / 2
    second_lowest = math.atanh(-30.5 / half) - math.atanh(0.5 / half)
    assert module.apply({}, jnp.array([second_lowest, -20, -20, -20, 20]), method="nearest") == 1 + 63 * 64**4
    codes = module.apply({}, jnp.int32(1 + 63 * 64**4), method="lookup")
    np.testing.assert_array_equal(codes, np.array([-31, -32, -32, -32, 31]) / 32)


def test_fsq_reaches_all_levels_and_maps_zero_to_the_middle():
    far = jnp.linspace(-6, 6, 500)[:, None] * jnp.ones(4)
    codes = np.asarray(fsq(1).apply({}, far).codes)
    assert [len(np.unique(codes[:, i].round(4))) for i in range(4)] == list(LEVELS)
    module = fsq(1)
    np.testing.assert_allclose(module.apply({}, jnp.zeros(4), method="_bound"), 0, atol=1e-6)


def test_the_gradient_of_fsq_is_that_of_its_bound():
    gradient = jax.grad(lambda v: fsq(1).apply({}, v).codes.sum())(vectors())
    value, levels, step = float(vectors()[1, 2, 0]), LEVELS[0], 1e-5
    expected = (bounded(value + step, levels) - bounded(value - step, levels)) / (2 * step) / (levels // 2)
    np.testing.assert_allclose(gradient[1, 2, 0], expected, rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["fsq", "lfq"])
def test_looking_up_ids_gives_the_codes_they_came_from(kind, groups):
    module = fsq(groups) if kind == "fsq" else LookupFreeQuantizer(4, 4 if groups == 2 else 16, groups)
    quantized = module.apply({}, vectors())
    assert quantized.ids.shape == ((3, 5) if groups == 1 else (3, 5, 2))
    np.testing.assert_allclose(module.apply({}, quantized.ids, method="lookup"), quantized.codes, atol=1e-6)
    np.testing.assert_array_equal(module.apply({}, vectors(), method="nearest"), quantized.ids)
    every = jnp.arange(module.codebook_size)
    every = every if groups == 1 else jnp.stack([every, every], -1)
    codes = module.apply({}, every, method="lookup")
    assert len(np.unique(np.asarray(codes), axis=0)) == module.codebook_size


def test_lfq_takes_signs_and_pulls_vectors_towards_them():
    module = LookupFreeQuantizer(4, 16)
    quantized = module.apply({}, vectors())
    signs = np.where(np.asarray(vectors()) > 0, 1.0, -1.0)
    np.testing.assert_array_equal(quantized.codes, signs)
    assert quantized.codebook_loss == 0
    np.testing.assert_allclose(quantized.commitment_loss, np.mean((signs - vectors()) ** 2), rtol=1e-5)
    weights = jax.random.normal(jax.random.key(2), (3, 5, 4))
    gradient = jax.grad(lambda v: jnp.sum(module.apply({}, v).codes * weights))(vectors())
    np.testing.assert_allclose(gradient, weights, atol=1e-6)


def test_lfq_s_entropy_loss_has_its_temperature_and_its_usage_is_of_all_codes():
    module, low = LookupFreeQuantizer(4, 16, entropy_temperature=0.7), -jnp.abs(vectors())  # one code
    quantized = module.apply({}, low)
    np.testing.assert_allclose(quantized.entropy_loss, bit_entropy_loss(low.reshape(-1, 4), 0.7), rtol=1e-6)
    np.testing.assert_allclose(quantized.usage, 1 / 16)


def test_zero_is_the_lower_bit_of_lfq():
    module = LookupFreeQuantizer(4, 16)
    quantized = module.apply({}, jnp.zeros((1, 4)))
    np.testing.assert_array_equal(quantized.codes, -np.ones((1, 4)))
    assert quantized.ids == module.apply({}, jnp.zeros((1, 4)), method="nearest") == 0


def test_the_entropy_loss_of_sure_and_even_bits_is_minus_the_log_of_their_codes():
    every = 10.0 * np.array(list(itertools.product([-1, 1], repeat=3)))
    np.testing.assert_allclose(bit_entropy_loss(jnp.asarray(every), 0.01), -np.log(8), rtol=1e-5)
    np.testing.assert_allclose(bit_entropy_loss(jnp.asarray(every[:2]), 0.01), -np.log(2), rtol=1e-5)


def test_the_table_of_bits_is_of_unrounded_factors_on_every_platform():
    assert "HIGHEST" in str(jax.make_jaxpr(lambda v: bit_entropy_loss(v, 1.0))(jnp.ones((2, 4))))


@pytest.mark.parametrize("bits", [3, 6])
def test_the_entropy_loss_of_bits_equals_that_over_all_codes(bits):
    z, temperature = 0.3 * np.asarray(vectors(bits), np.float64).reshape(-1, bits), 0.7
    codes = np.array(list(itertools.product([-1, 1], repeat=bits)))
    logits = -((z[:, None] - codes) ** 2).sum(-1) / temperature
    probs = np.exp(logits - logits.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    mean = probs.mean(0)
    expected = -(probs * np.log(probs)).sum(1).mean() + (mean * np.log(mean)).sum()
    np.testing.assert_allclose(
        bit_entropy_loss(jnp.asarray(z, jnp.float32), temperature), expected, rtol=1e-4
    )


def test_usage_and_perplexity_are_means_over_groups():
    module = LookupFreeQuantizer(4, 4, 2)
    bits = jnp.array([[1, 1, -1, -1], [1, 1, -1, 1], [1, 1, 1, -1], [1, 1, 1, 1]], jnp.float32)
    quantized = module.apply({}, bits)  # the first group has one code, the second all four
    np.testing.assert_allclose(quantized.usage, (1 / 4 + 1) / 2)
    np.testing.assert_allclose(quantized.perplexity, (1 + 4) / 2, rtol=1e-5)


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="groups is 3, which does not divide 4 dimensions"):
        LookupFreeQuantizer(4, 4, 3).apply({}, vectors())
    with pytest.raises(ValueError, match=r"codebook_size is 16, but .* in 2 groups give \[4, 4\] codes"):
        LookupFreeQuantizer(4, 16, 2).apply({}, vectors())
    with pytest.raises(ValueError, match="which must be equal in all groups"):
        FiniteScalarQuantizer((4, 4, 3, 3), 16, 2).apply({}, vectors())
