import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from muse_jax.evaluation.resizing import resize_images


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 24, 37, 3), np.uint8)


@pytest.mark.parametrize("size", [11, 24, 53])
def test_clean_is_pil_s_bicubic_on_floats(images, size):
    for image, resized in zip(images, resize_images(jnp.asarray(images), size, "clean"), strict=True):
        for channel in range(3):
            floats = Image.fromarray(image[..., channel].astype(np.float32), mode="F")
            expected = np.asarray(floats.resize((size, size), Image.Resampling.BICUBIC)).clip(0, 255)
            np.testing.assert_allclose(resized[..., channel], expected, atol=2e-4)


@pytest.mark.parametrize("size", [11, 53])
def test_tf1_interpolates_between_the_corners_of_pixels(images, size):
    """As TensorFlow 1: output pixel i lies at i * old / new, and nothing is averaged when shrinking."""
    resized = resize_images(jnp.asarray(images), size, "tf1")
    for i in range(size):
        for j in range(size):
            y, x = i * 24 / size, j * 37 / size
            top, left = int(y), int(x)
            bottom, right = min(top + 1, 23), min(left + 1, 36)
            image = images.astype(float)
            upper = image[:, top, left] + (image[:, top, right] - image[:, top, left]) * (x - left)
            lower = image[:, bottom, left] + (image[:, bottom, right] - image[:, bottom, left]) * (x - left)
            np.testing.assert_allclose(resized[:, i, j], upper + (lower - upper) * (y - top), atol=1e-2)


def test_none_leaves_images_as_they_are(images):
    np.testing.assert_array_equal(resize_images(jnp.asarray(images), 299, "none"), images)
