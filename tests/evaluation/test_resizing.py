import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

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


@pytest.mark.parametrize(
    "radius, sigma", [(1, np.sqrt(2 / 3)), (2, np.sqrt(2)), (4, np.sqrt(20 / 3)), (8, np.sqrt(24))]
)
def test_blur_is_a_gaussian_cut_at_its_radius(images, radius, sigma):
    expected = ndimage.gaussian_filter(images.astype(float), sigma, radius=radius, mode="mirror", axes=(1, 2))
    np.testing.assert_allclose(resize_images(jnp.asarray(images), 0, "none", radius), expected, atol=1e-3)


def test_images_are_blurred_before_they_are_resized(images):
    blurred = np.round(np.asarray(resize_images(jnp.asarray(images), 0, "none", 2))).astype(np.uint8)
    for mode in ("tf1", "clean"):
        expected = resize_images(jnp.asarray(blurred), 53, mode)
        np.testing.assert_allclose(resize_images(jnp.asarray(images), 53, mode, 2), expected, atol=0.75)
