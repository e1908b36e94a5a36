import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec
from scipy.special import softmax
from scipy.stats import entropy, kstest, uniform

from muse_jax.tokenizers.quantizer import (
    VectorQuantizer,
    code_histogram,
    entropy_loss,
    histogram_statistics,
    restart_dead_codes,
    squared_distances,
)
from muse_jax.tokenizers.quantizer import unit as unit_length

CODES, DIM = 7, 3


def quantizer(normalize):
    module = VectorQuantizer(CODES, DIM, normalize)
    vectors = jax.random.normal(jax.random.key(1), (2, 3, 4, DIM))
    params = nn.unbox(module.init(jax.random.key(0), vectors))
    return module, params, vectors


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("normalize", [False, True])
def test_nearest_codes_equal_those_of_a_loop(normalize):
    module, params, vectors = quantizer(normalize)
    rows = np.asarray(params["params"]["codebook"])
    flat = np.asarray(vectors).reshape(-1, DIM)
    if normalize:
        rows, flat = unit(rows), unit(flat)
    expected = [min(range(CODES), key=lambda k: ((v - rows[k]) ** 2).sum()) for v in flat]
    quantized = module.apply(params, vectors)
    assert quantized.ids.reshape(-1).tolist() == expected
    nearest = module.apply(params, vectors, method="nearest")
    assert nearest.reshape(-1).tolist() == expected
    assert quantized.ids.dtype == nearest.dtype == jnp.int32
    np.testing.assert_allclose(quantized.codes.reshape(-1, DIM), rows[expected], atol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
def test_commitment_and_codebook_losses_are_the_mean_squared_distance(normalize):
    module, params, vectors = quantizer(normalize)
    quantized = module.apply(params, vectors)
    rows, points = np.asarray(params["params"]["codebook"]), np.asarray(vectors)
    rows, points = (unit(rows), unit(points)) if normalize else (rows, points)
    expected = np.mean((rows[np.asarray(quantized.ids)] - points) ** 2)
    np.testing.assert_allclose(quantized.commitment_loss, expected, rtol=1e-5)
    np.testing.assert_allclose(quantized.codebook_loss, expected, rtol=1e-5)


def test_the_gradient_of_the_codes_passes_straight_through_to_the_vectors():
    module, params, vectors = quantizer(False)
    weights = jax.random.normal(jax.random.key(2), vectors.shape)
    gradient = jax.grad(lambda v: jnp.sum(module.apply(params, v).codes * weights))(vectors)
    np.testing.assert_allclose(gradient, weights, atol=1e-6)


def test_commitment_moves_vectors_and_the_codebook_loss_moves_codes_only():
    module, params, vectors = quantizer(False)
    by_vectors = jax.grad(lambda v: module.apply(params, v).codebook_loss)(vectors)
    by_codes = jax.grad(lambda p: module.apply(p, vectors).commitment_loss)(params)
    assert not np.any(by_vectors)
    assert not np.any(by_codes["params"]["codebook"])


def test_the_entropy_loss_of_confident_codes_is_zero_for_one_code_and_minus_log_n_for_n():
    distances = jnp.where(jnp.eye(4, dtype=bool), 0.0, 10.0)
    np.testing.assert_allclose(entropy_loss(distances, temperature=0.01), -np.log(4), atol=1e-3)
    one_code = jnp.broadcast_to(jnp.array([0.0, 10.0, 10.0, 10.0]), (4, 4))
    np.testing.assert_allclose(entropy_loss(one_code, temperature=0.01), 0, atol=1e-3)


def test_the_entropy_loss_of_uncertain_codes_equals_scipy_s_entropies():
    distances = np.random.default_rng(0).uniform(size=(6, 5)).astype(np.float32)
    probs = softmax(-distances.astype(np.float64) / 0.3, axis=1)
    expected = np.mean([entropy(row) for row in probs]) - entropy(probs.mean(0))
    np.testing.assert_allclose(entropy_loss(jnp.asarray(distances), temperature=0.3), expected, atol=1e-4)


def test_the_quantizer_passes_its_distances_and_temperature_to_the_entropy_loss():
    module, params, vectors = quantizer(False)
    module = module.clone(entropy_temperature=0.7)
    flat, rows = np.asarray(vectors).reshape(-1, DIM), np.asarray(params["params"]["codebook"])
    distances = ((flat[:, None] - rows) ** 2).sum(-1)
    quantized = module.apply(params, vectors)
    np.testing.assert_allclose(quantized.entropy_loss, entropy_loss(distances, 0.7), rtol=1e-5)


def test_the_codebook_starts_uniform_within_the_root_of_three_over_its_size():
    module = VectorQuantizer(codebook_size=512, embed_dim=64)
    params = nn.unbox(module.init(jax.random.key(0), jnp.zeros((1, 64))))
    rows = np.asarray(params["params"]["codebook"]).reshape(-1)
    bound = np.sqrt(3 / 512)
    assert kstest(rows, uniform(-bound, 2 * bound).cdf).pvalue > 0.01


def test_directions_of_a_normalized_codebook_are_drawn_from_a_gaussian():
    module = VectorQuantizer(codebook_size=512, embed_dim=8, normalize=True)
    params = nn.unbox(module.init(jax.random.key(0), jnp.zeros((1, 8))))
    assert kstest(np.asarray(params["params"]["codebook"]).reshape(-1), "norm").pvalue > 0.01


def test_the_length_of_a_vector_does_not_matter_where_units_are_compared():
    module, params, vectors = quantizer(True)
    for scale in (1e-3, 1e8):  # at 1e8 float32 holds no difference of distances that are not of units
        long = module.apply(params, scale * vectors, method="nearest")
        np.testing.assert_array_equal(long, module.apply(params, vectors).ids)


def test_the_codebook_has_the_logical_axes_vocab_and_embed():
    boxed = jax.eval_shape(VectorQuantizer(CODES, DIM).init, jax.random.key(0), jnp.zeros((1, DIM)))
    assert nn.get_partition_spec(boxed)["params"]["codebook"] == PartitionSpec("vocab", "embed")


def test_a_zero_vector_stays_zero_at_unit_length():
    np.testing.assert_array_equal(unit_length(jnp.zeros(DIM)), np.zeros(DIM))


def test_usage_and_perplexity_are_those_of_the_batch():
    module, params, vectors = quantizer(False)
    quantized = module.apply(params, vectors)
    counts = np.bincount(np.asarray(quantized.ids).reshape(-1), minlength=CODES)
    np.testing.assert_allclose(quantized.usage, np.mean(counts > 0))
    np.testing.assert_allclose(quantized.perplexity, np.exp(entropy(counts)), rtol=1e-4)


def test_usage_and_perplexity_of_a_known_histogram():
    usage, perplexity = histogram_statistics(code_histogram(jnp.array([[0, 0, 1], [1, 5, 5]]), 8))
    np.testing.assert_allclose(usage, 3 / 8)
    np.testing.assert_allclose(perplexity, 3, rtol=1e-4)


def test_a_histogram_of_groups_has_a_row_each_and_its_statistics_are_means_over_them():
    histogram = code_histogram(jnp.array([[[0, 1], [2, 1]], [[2, 1], [2, 1]]]), 3, groups=2)
    np.testing.assert_allclose(histogram, [[1 / 4, 0, 3 / 4], [0, 1, 0]])
    usage, perplexity = histogram_statistics(histogram)
    np.testing.assert_allclose(usage, (2 / 3 + 1 / 3) / 2)
    np.testing.assert_allclose(perplexity, (np.exp(entropy([1, 3])) + 1) / 2, rtol=1e-5)


def test_squared_distances_are_of_unrounded_factors_on_every_platform():
    assert "HIGHEST" in str(jax.make_jaxpr(squared_distances)(jnp.ones((2, 3)), jnp.ones((4, 3))))


def test_squared_distances_equal_the_pairwise_loop():
    vectors, codes = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    expected = [[((v - c) ** 2).sum() for c in codes] for v in vectors]
    np.testing.assert_allclose(squared_distances(vectors, codes), expected, rtol=1e-4, atol=1e-5)


def test_dead_codes_restart_at_vectors_and_used_ones_stay():
    rng = np.random.default_rng(0)
    codebook, vectors = rng.normal(size=(6, 2)), rng.normal(size=(9, 2)) + 10
    restarted = restart_dead_codes(
        jnp.array(codebook), jnp.array([0, 0, 4, 2]), jnp.array(vectors), jax.random.key(0)
    )
    np.testing.assert_allclose(restarted[jnp.array([0, 2, 4])], codebook[[0, 2, 4]], rtol=1e-6)
    dead = np.asarray(restarted)[[1, 3, 5]]
    nearest = np.abs(dead[:, None] - vectors).sum(-1).min(1)
    np.testing.assert_allclose(nearest, 0, atol=1e-5)
    assert len(np.unique(dead.round(4), axis=0)) > 1


def test_every_vector_may_become_a_code():
    vectors = jnp.arange(1.0, 4.0)[:, None]
    restarted = restart_dead_codes(jnp.zeros((100, 1)), jnp.array([0]), vectors, jax.random.key(1))
    assert set(restarted[1:, 0].tolist()) == {1.0, 2.0, 3.0} and restarted[0] == 0
