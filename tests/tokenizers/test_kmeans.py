import jax
import jax.numpy as jnp
import numpy as np

from muse_jax.tokenizers.kmeans import kmeans, nearest_centres


def test_each_vector_is_in_its_nearest_cluster_and_each_centre_is_the_mean_of_its_vectors():
    vectors = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    centres, nearest = (np.array(a) for a in kmeans(jnp.asarray(vectors), 6, jax.random.key(1)))
    distances = ((vectors[:, None] - centres[None]) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(nearest, distances.argmin(axis=1))
    for cluster in range(6):
        np.testing.assert_allclose(centres[cluster], vectors[nearest == cluster].mean(axis=0), atol=1e-5)


def test_a_repeated_vector_seeds_only_one_cluster():
    different = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    vectors = jnp.asarray(np.concatenate([different, np.ones((500, 4), np.float32)]))
    centres, _ = kmeans(vectors, 21, jax.random.key(0), 1)
    assert len(np.unique(np.asarray(centres).round(4), axis=0)) == 21


def test_nearest_centres_equal_a_loop_for_a_number_that_is_no_multiple_of_the_block():
    rng = np.random.default_rng(0)
    vectors, centres = rng.normal(size=(1100, 3)).astype(np.float32), rng.normal(size=(9, 3))
    expected = ((vectors[:, None] - centres) ** 2).sum(-1).argmin(1)
    found = nearest_centres(jnp.asarray(vectors), jnp.asarray(centres, jnp.float32))
    np.testing.assert_array_equal(found, expected)
