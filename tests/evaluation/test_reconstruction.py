import jax
import numpy as np
import pytest
from scipy.signal import convolve2d

from muse_jax.evaluation.reconstruction import code_statistics, evaluate_tokenizer, psnr, reconstruct, ssim
from muse_jax.tokenizers import VQGAN


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
    np.testing.assert_allclose(psnr(other, black), [0, 20 * np.log10(5)], atol=1e-9)
    np.testing.assert_allclose(psnr(black, black), 100)


def test_ssim_equals_its_definition_window_by_window(pair):
    images, targets = pair
    axis = np.arange(-5, 6)
    window = np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    expected = []
    for a, b in zip(images.astype(float), targets.astype(float)):
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
    np.testing.assert_allclose(ssim(images, targets), expected, rtol=1e-9)
    np.testing.assert_allclose(ssim(images, images), 1)


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
    np.testing.assert_allclose(ssim(gradient, flat), [expected])


def test_wrong_types_and_shapes_are_refused(pair):
    images, _ = pair
    with pytest.raises(ValueError, match="both must be uint8"):
        psnr(images.astype(np.float32), images)
    with pytest.raises(ValueError, match="one shape"):
        ssim(images, images[:1])


def test_code_statistics():
    found = code_statistics(np.array([[0, 0], [5, 5]]), 8)
    assert found == {"code_usage": pytest.approx(0.25), "code_perplexity": pytest.approx(2)}
    assert code_statistics(np.arange(8), 8) == {"code_usage": 1, "code_perplexity": pytest.approx(8)}


def test_a_tokenizer_is_scored_on_its_own_reconstructions():
    vqgan = VQGAN(filters=8, multipliers=(1,), num_res_blocks=1, codebook_size=16, embed_dim=4, patch=4)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    params = jax.jit(vqgan.init)(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))["params"]
    ids, rebuilt = reconstruct(vqgan, params, images, batch_size=2)
    assert ids.shape == (5, 4, 4) and rebuilt.shape == images.shape and rebuilt.dtype == np.uint8
    # The last, padded batch gives what the picture alone gives.
    alone = vqgan.encode(params, images[4:].astype(np.float32) / 127.5 - 1)
    np.testing.assert_array_equal(ids[4:], alone)
    scores = evaluate_tokenizer(vqgan, params, images, batch_size=2)
    assert scores["psnr"] == pytest.approx(psnr(rebuilt, images).mean())
    assert scores["ssim"] == pytest.approx(ssim(rebuilt, images).mean())
    assert scores["code_usage"] == len(np.unique(ids)) / 16 and scores["count"] == 5
    with pytest.raises(ValueError, match="no pictures"):
        reconstruct(vqgan, params, images[:0])
