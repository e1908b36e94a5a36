"""Cluster sampling against probabilities summed code by code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.sampling.autoregressive import Sampling
from muse_jax.sampling.clusters import cluster_log_probs

LOGITS = np.array([1.0, -0.5, 0.3, 2.0, -1.0, 0.8, 0.1], np.float32)
OF_CODE = np.array([0, 2, 2, 3, 0, 2, 3])  # cluster 1 has no code
DRAWS = 20_000


def by_hand(temperature, top_clusters, inner_temperature):
    """Probability of each code."""
    tempered = LOGITS.astype(np.float64) / temperature
    probs = np.exp(tempered) / np.exp(tempered).sum()
    mass = {c: sum(p for p, d in zip(probs, OF_CODE, strict=True) if d == c) for c in set(OF_CODE)}
    kept = sorted(mass, key=mass.get, reverse=True)[:top_clusters]
    out = np.zeros(len(LOGITS))
    for cluster in kept:
        codes = np.flatnonzero(np.equal(OF_CODE, cluster))
        inside = np.exp(tempered[codes] / inner_temperature)
        out[codes] = mass[cluster] / sum(mass[c] for c in kept) * inside / inside.sum()
    return out


@pytest.mark.parametrize("settings", [(1.0, 4, 1.0), (1.4, 2, 0.6), (0.7, 1, 1.0)])
def test_codes_are_sampled_by_cluster_and_then_within_it(settings):
    temperature, top_clusters, inner = settings
    sampling = Sampling(temperature, clusters=jnp.asarray(OF_CODE), num_clusters=4)
    sampling = sampling.replace(top_clusters=top_clusters, inner_temperature=inner)
    drawn = jax.jit(sampling.__call__)(jax.random.key(0, impl="rbg"), jnp.tile(LOGITS, (DRAWS, 1)))
    expected = by_hand(*settings)
    counts = np.bincount(drawn, minlength=len(LOGITS))
    assert np.all(counts[expected == 0] == 0)
    there = expected > 0
    chi_square = np.sum((counts - DRAWS * expected)[there] ** 2 / (DRAWS * expected[there]))
    assert chi_square < 27.9  # 6 degrees of freedom at most, p = 1e-4


def test_cluster_probabilities_are_sums_over_codes_and_zero_for_an_empty_cluster():
    log_probs = np.array(cluster_log_probs(jnp.asarray(LOGITS), jnp.asarray(OF_CODE), 4))
    probs = np.exp(LOGITS) / np.exp(LOGITS).sum()
    for cluster in (0, 2, 3):
        np.testing.assert_allclose(
            np.exp(log_probs[cluster]), probs[np.equal(OF_CODE, cluster)].sum(), rtol=1e-6
        )
    assert log_probs[1] == -np.inf


def test_leading_axes_are_kept_and_trailing_clusters_may_be_empty():
    logits = np.random.default_rng(0).normal(size=(2, 3, len(LOGITS))).astype(np.float32)
    log_probs = cluster_log_probs(logits, jnp.asarray(OF_CODE), 6)
    rows = [cluster_log_probs(row, jnp.asarray(OF_CODE), 6) for row in logits.reshape(-1, len(LOGITS))]
    np.testing.assert_allclose(log_probs.reshape(-1, 6), rows, rtol=1e-6)
    sampling = Sampling(0.0, clusters=jnp.asarray(OF_CODE), num_clusters=6)
    assert sampling(jax.random.key(0), jnp.asarray(logits)).shape == (2, 3)


def test_clusters_of_another_codebook_are_refused():
    sampling = Sampling(clusters=jnp.asarray(OF_CODE), num_clusters=4)
    with pytest.raises(ValueError, match="clusters are of a codebook with 7 codes, but 9 can be sampled"):
        sampling(jax.random.key(0), jnp.zeros((1, 9)))
