import jax
import numpy as np
import pytest

from muse_jax.evaluation.features import extract_features, extract_style_features
from muse_jax.interop.efficientnet_lite import load_efficientnet_lite0
from muse_jax.nn.efficientnet_lite import EfficientNetLite0


def test_features_keep_their_order_over_sizes_and_batches():
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (3, 224, 224, 3), np.uint8)
    # A flat image has the same 224 px version at every size.
    small = np.full((40, 30, 3), 90, np.uint8)
    flat = np.full((224, 224, 3), 90, np.uint8)
    seen = []
    images = [large[0], small, large[1], flat, large[2]]
    features = extract_features(images, batch_size=2, progress=lambda *counts: seen.append(counts))
    assert features.shape == (5, 1280) and features.dtype == np.float32
    assert seen[-1] == (5, 5)
    np.testing.assert_allclose(features[1], features[3], atol=1e-4)
    # At 224 px nothing is resized: the network's own pooled features.
    params = load_efficientnet_lite0()
    apply = jax.jit(lambda params, x: EfficientNetLite0().apply({"params": params}, x)[0])
    np.testing.assert_allclose(features[4], apply(params, large[2:] / np.float32(127.5) - 1)[0], atol=1e-3)


def test_only_uint8_images_are_accepted():
    with pytest.raises(ValueError, match="Image 0 is float32"):
        extract_features(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="batch_size is 0"):
        extract_features(np.zeros((1, 8, 8, 3), np.uint8), batch_size=0)


def test_style_features_are_moments_of_early_maps_and_a_colour_histogram():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    images[0] = (255, 0, 40)
    features = extract_style_features(images, batch_size=2)
    histogram = features[:, -512:] ** 2
    np.testing.assert_allclose(histogram.sum(1), 1, rtol=1e-5)
    assert histogram[0, 7 * 64 + 0 * 8 + 1] == pytest.approx(1)
    counts, _ = np.histogramdd(images[1].reshape(-1, 3), bins=8, range=[(0, 256)] * 3)
    np.testing.assert_allclose(histogram[1], counts.ravel() / 1024, atol=1e-6)
    params = {"stem": load_efficientnet_lite0()["stem"]}
    (stem,) = EfficientNetLite0().apply({"params": params}, images[1:2] / np.float32(127.5) - 1, taps=(0,))
    np.testing.assert_allclose(features[1, :32], np.mean(stem[0], (0, 1)), atol=1e-4)
    np.testing.assert_allclose(features[1, 32:64], np.std(stem[0], (0, 1)), atol=1e-4)
