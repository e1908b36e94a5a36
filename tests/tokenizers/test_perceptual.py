import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from muse_jax.interop.efficientnet_lite import load_efficientnet_lite0
from muse_jax.nn.efficientnet_lite import EfficientNetLite0
from muse_jax.tokenizers.perceptual import TAPS, load_perceptual, perceptual_loss


@pytest.fixture(scope="module")
def picture():
    """A disc, a square and a gradient, 32 px, in [-1, 1]."""
    y, x = np.mgrid[:32, :32] / 31.0
    image = np.stack([x, y, 1 - x], -1)
    image[(x - 0.35) ** 2 + (y - 0.4) ** 2 < 0.06] = (1, 0.1, 0.1)
    image[20:28, 18:29] = (0.1, 0.2, 0.9)
    return (image[None] * 2 - 1).astype(np.float32)


@pytest.fixture(scope="module")
def loss_and_grad():
    params = load_perceptual()
    compiled = jax.jit(jax.value_and_grad(perceptual_loss, argnums=1))
    return lambda images, targets: compiled(params, images, targets)


def test_is_the_sum_over_stages_of_mean_squared_differences_of_unit_channels(picture, loss_and_grad):
    other = picture[:, ::-1].copy()
    apply = jax.jit(lambda x: EfficientNetLite0().apply({"params": load_efficientnet_lite0()}, x, taps=TAPS))
    expected = 0.0
    for a, b in zip(apply(picture), apply(other)):
        a, b = (np.asarray(m, np.float64) for m in (a, b))
        a, b = (m / np.maximum(np.linalg.norm(m, axis=-1, keepdims=True), 1e-9) for m in (a, b))
        expected += np.mean(np.sum((a - b) ** 2, axis=-1))
    np.testing.assert_allclose(loss_and_grad(picture, other)[0], expected, rtol=1e-3)


def test_grows_with_blur_and_noise_from_zero(picture, loss_and_grad):
    noise = np.random.default_rng(0).normal(size=picture.shape).astype(np.float32)
    blurred = [gaussian_filter(picture, (0, s, s, 0)) for s in (0.0, 0.5, 1.0, 2.0)]
    noisy = [picture + s * noise for s in (0.0, 0.02, 0.1, 0.5)]
    for family in (blurred, noisy):
        losses = [float(loss_and_grad(image.astype(np.float32), picture)[0]) for image in family]
        assert losses[0] < 1e-9 and losses == sorted(losses) and losses[1] > 1e-3


def test_a_step_down_the_gradient_lowers_it_and_a_white_picture_has_finite_ones(picture, loss_and_grad):
    start = gaussian_filter(picture, (0, 1, 1, 0))
    before, grad = loss_and_grad(start, picture)
    norm = float(jnp.sum(grad**2))
    after, _ = loss_and_grad(np.asarray(start - 0.005 * float(before) / norm * grad), picture)
    np.testing.assert_allclose(before - after, 0.005 * before, rtol=0.3)
    white = np.ones_like(picture)
    assert np.isfinite(loss_and_grad(white, white)[1]).all()


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="share one"):
        perceptual_loss({}, jnp.zeros((1, 32, 32, 3)), jnp.zeros((2, 32, 32, 3)))
