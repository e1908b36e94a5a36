import numpy as np
import pytest

from muse_jax.evaluation.concepts import StyleClassifier, concept_ranks, nearest_labels, top_k

# Unit vectors in the plane by their angle in degrees.
GALLERY = {"cat": (0, 80), "dog": (30,), "sun": (60, 170), "sea": (180,)}


def at(*degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], -1) * 7  # cosine similarity ignores length


def gallery():
    names = [name for name, angles in GALLERY.items() for _ in angles]
    return at(*[angle for angles in GALLERY.values() for angle in angles]), names


def test_ranks_by_the_nearest_image_of_each_concept():
    # From 40: dog 10 away, sun 20, cat 40, sea 140. From 82: cat 2 away, by its second image.
    ranks = concept_ranks(at(40, 40, 40, 40, 82), ["dog", "sun", "cat", "sea", "cat"], *gallery())
    np.testing.assert_array_equal(ranks, [0, 1, 2, 3, 0])
    assert top_k(ranks, 1) == pytest.approx(0.4) and top_k(ranks, 3) == pytest.approx(0.8)


def test_ties_count_against_the_query():
    ranks = concept_ranks(at(0), ["dog"], np.ones((3, 2)), ["dog", "cat", "sun"])
    np.testing.assert_array_equal(ranks, [2])


def test_an_excluded_image_is_left_out():
    features, names = gallery()
    queries = features[[0, 2]]  # cat's first image and dog's only one
    np.testing.assert_array_equal(concept_ranks(queries, ["cat", "dog"], features, names), [0, 0])
    ranks = concept_ranks(queries, ["cat", "dog"], features, names, exclude=[0, 2])
    # Cat is then known by its other image, behind dog and sun; dog has none left.
    np.testing.assert_array_equal(ranks, [2, 4])


def test_agrees_with_a_plain_loop_on_random_features():
    rng = np.random.default_rng(0)
    features, queries = rng.normal(size=(40, 5)), rng.normal(size=(9, 5))
    names = [f"concept {i % 13}" for i in range(40)]
    wanted = [f"concept {i}" for i in range(9)]
    expected = []
    for query, name in zip(queries, wanted, strict=True):
        best: dict[str, float] = {}
        for row, other in zip(features, names, strict=True):
            score = query @ row / np.linalg.norm(query) / np.linalg.norm(row)
            best[other] = max(best.get(other, -2), score)
        expected.append(sorted(best, key=lambda n: -best[n]).index(name))
    np.testing.assert_array_equal(concept_ranks(queries, wanted, features, names), expected)


def test_an_unknown_concept_is_named():
    with pytest.raises(ValueError, match="'zebra' has no real image"):
        concept_ranks(at(1, 2), ["cat", "zebra"], *gallery())


def test_the_style_classifier_separates_shifted_clouds_and_reports_chance_on_noise():
    rng = np.random.default_rng(0)
    styles = np.array(["noto", "twemoji", "fluent"])[rng.integers(3, size=600)]
    centre = {"noto": 0, "twemoji": 1, "fluent": 2}
    shift = np.eye(3)[[centre[s] for s in styles]] @ rng.normal(size=(3, 8)) * 4
    features = rng.normal(size=(600, 8)) + shift
    fitted = StyleClassifier.fit(features[:400], styles[:400])
    assert fitted.accuracy(features[400:], styles[400:]) > 0.95
    noise = rng.normal(size=(600, 8))
    blind = StyleClassifier.fit(noise[:400], styles[:400])
    assert blind.accuracy(noise[400:], styles[400:]) < 0.5


def test_a_single_style_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        StyleClassifier.fit(np.zeros((3, 2)), ["noto"] * 3)


def test_nearest_label():
    assert nearest_labels(at(25, 177), *gallery()).tolist() == ["dog", "sea"]
