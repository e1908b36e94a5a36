import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from muse_jax.interop.efficientnet_lite import load_efficientnet_lite0
from muse_jax.nn.efficientnet_lite import EfficientNetLite0
from muse_jax.tokenizers.perceptual import (
    TAPS,
    load_perceptual,
    perceptual_distance,
    perceptual_loss,
    perceptual_shapes,
)


@pytest.fixture(scope="module")
def image():
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


def test_the_loss_sums_mean_squared_differences_of_unit_channels_over_stages(image, loss_and_grad):
    other = image[:, ::-1].copy()
    apply = jax.jit(lambda x: EfficientNetLite0().apply({"params": load_efficientnet_lite0()}, x, taps=TAPS))
    expected = 0.0
    for a, b in zip(apply(image), apply(other), strict=True):
        a, b = (np.asarray(m, np.float64) for m in (a, b))
        a, b = (m / np.maximum(np.linalg.norm(m, axis=-1, keepdims=True), 1e-9) for m in (a, b))
        expected += np.mean(np.sum((a - b) ** 2, axis=-1))
    np.testing.assert_allclose(loss_and_grad(image, other)[0], expected, rtol=1e-3)


def test_the_distance_of_each_example_is_its_own_sum_over_stages():
    rng = np.random.default_rng(1)
    shapes = [(2, 3, 4, 5), (2, 2, 1, 3)]
    maps, targets = ([jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes] for _ in range(2))
    expected = np.zeros(2)
    for stage, target in zip(maps, targets, strict=True):
        for b, h, w in np.ndindex(stage.shape[:3]):
            a, c = (np.asarray(x[b, h, w], np.float64) for x in (stage, target))
            expected[b] += ((a / np.linalg.norm(a) - c / np.linalg.norm(c)) ** 2).sum() / stage[
                b, ..., 0
            ].size
    np.testing.assert_allclose(perceptual_distance(maps, targets), expected, rtol=1e-4)
    np.testing.assert_array_equal(perceptual_distance([0 * maps[0]], [0 * maps[0]]), np.zeros(2))


def test_weights_are_those_that_the_taps_need():
    params = load_perceptual((0, 2))
    assert set(params) == {"stem", "block_1", "block_2"} == set(perceptual_shapes((0, 2)))
    shapes = jax.tree.map(lambda leaf: leaf.shape, perceptual_shapes((0, 2)))
    assert jax.tree.map(lambda leaf: leaf.shape, params) == shapes
    assert set(perceptual_shapes(())) == set(load_efficientnet_lite0())
    assert "block_11" in perceptual_shapes() and "block_12" not in perceptual_shapes()


def test_images_are_enlarged_before_the_network():
    images, targets = np.random.default_rng(2).uniform(-1, 1, (2, 2, 32, 40, 3)).astype(np.float32)
    params = load_perceptual((0,))
    enlarged = [jax.image.resize(x, (2, 64, 80, 3), "bilinear") for x in (images, targets)]
    expected = perceptual_loss(params, *enlarged, taps=(0,))
    loss = perceptual_loss(params, images, targets, taps=(0,), upsample=2)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert abs(loss - perceptual_loss(params, images, targets, taps=(0,))) > 1e-3


def test_the_loss_grows_with_blur_and_noise_from_zero(image, loss_and_grad):
    noise = np.random.default_rng(0).normal(size=image.shape).astype(np.float32)
    blurred = [gaussian_filter(image, (0, s, s, 0)) for s in (0.0, 0.5, 1.0, 2.0)]
    noisy = [image + s * noise for s in (0.0, 0.02, 0.1, 0.5)]
    for family in (blurred, noisy):
        losses = [float(loss_and_grad(member.astype(np.float32), image)[0]) for member in family]
        assert losses[0] < 1e-9 and losses == sorted(losses) and losses[1] > 1e-3


def test_a_gradient_step_lowers_the_loss_and_gradients_of_a_white_image_are_finite(image, loss_and_grad):
    start = gaussian_filter(image, (0, 1, 1, 0))
    before, grad = loss_and_grad(start, image)
    norm = float(jnp.sum(grad**2))
    after, _ = loss_and_grad(np.asarray(start - 0.005 * float(before) / norm * grad), image)
    np.testing.assert_allclose(before - after, 0.005 * before, rtol=0.3)
    white = np.ones_like(image)
    assert np.isfinite(loss_and_grad(white, white)[1]).all()


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="share one"):
        perceptual_loss({}, jnp.zeros((1, 32, 32, 3)), jnp.zeros((2, 32, 32, 3)))
    with pytest.raises(ValueError, match="share one"):
        perceptual_loss({}, jnp.zeros((32, 32, 3)), jnp.zeros((32, 32, 3)))
