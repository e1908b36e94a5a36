import numpy as np
import pytest
from scipy.signal import convolve2d

from muse_jax.evaluation.image_quality import psnr, ssim


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 17, 14, 3), np.uint8)
    noise = rng.integers(-40, 41, images.shape)
    return images, np.clip(images.astype(int) + noise, 0, 255).astype(np.uint8)


def test_psnr_of_a_known_error():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    other = black.copy()
    other[0] += 255  # error 255 everywhere: 0 dB
    other[1] += 51  # 255 / 51 = 5: 20 log10(5) dB
    np.testing.assert_allclose(psnr(other, black), [0, 20 * np.log10(5)], atol=1e-5)
    np.testing.assert_allclose(psnr(black, black), 100, rtol=1e-6)


def test_ssim_equals_its_definition_window_by_window(pair):
    images, targets = pair
    axis = np.arange(-5, 6)
    window = np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    expected = []
    for a, b in zip(images.astype(float), targets.astype(float), strict=True):
        values = []
        for c in range(3):
            for i in range(17 - 10):
                for j in range(14 - 10):
                    x, y = a[i : i + 11, j : j + 11, c], b[i : i + 11, j : j + 11, c]
                    mx, my = np.sum(window * x), np.sum(window * y)
                    vx, vy = np.sum(window * (x - mx) ** 2), np.sum(window * (y - my) ** 2)
                    cov = np.sum(window * (x - mx) * (y - my))
                    c1, c2 = 2.55**2, 7.65**2
                    top = (2 * mx * my + c1) * (2 * cov + c2)
                    values.append(top / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
        expected.append(np.mean(values))
    np.testing.assert_allclose(ssim(images, targets), expected, rtol=1e-5)
    np.testing.assert_allclose(ssim(images, images), 1, rtol=1e-6)


def test_ssim_is_one_window_at_eleven_pixels():
    gradient = np.tile(np.arange(0, 220, 20, dtype=np.uint8)[:, None, None], (1, 11, 3))[None]
    assert ssim(gradient, np.ascontiguousarray(gradient[:, ::-1]))[0] < 0
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim(gradient[:, :10], gradient[:, :10])
    axis = np.arange(-5, 6)
    window = np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / 4.5)
    mean = convolve2d(gradient[0, ..., 0], window / window.sum(), mode="valid").item()
    flat = np.full_like(gradient, 0)
    variance = np.sum(window / window.sum() * (gradient[0, ..., 0] - mean) ** 2)
    expected = 2.55**2 * 7.65**2 / ((mean**2 + 2.55**2) * (variance + 7.65**2))
    np.testing.assert_allclose(ssim(gradient, flat), [expected], rtol=1e-4)


def test_wrong_types_and_shapes_are_refused(pair):
    images, _ = pair
    with pytest.raises(ValueError, match="both must be uint8"):
        psnr(images.astype(np.float32), images)
    with pytest.raises(ValueError, match="one shape"):
        ssim(images, images[:1])
