import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.signal import convolve2d

from muse_jax.tokenizers.discriminator import (
    Discriminator,
    blur_downsample,
    discriminator_loss,
    generator_loss,
    lazy,
    minibatch_stddev,
    r1_penalty,
)


@pytest.mark.parametrize("sides", [(8, 7), (7, 8)])
def test_blur_downsampling_is_the_binomial_filter_at_every_second_position(sides):
    x = np.random.default_rng(0).normal(size=(2, *sides, 2)).astype(np.float32)
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    out = blur_downsample(jnp.asarray(x))
    assert out.shape == (2, sides[0] // 2, sides[1] // 2, 2)
    for b, c in np.ndindex(2, 2):
        padded = np.pad(x[b, :, :, c], 1, mode="reflect")
        expected = convolve2d(padded, taps, mode="valid")[::2, ::2]
        np.testing.assert_allclose(out[b, :, :, c], expected, rtol=1e-5, atol=1e-6)


def test_minibatch_stddev_is_zero_for_equal_samples_and_the_mean_deviation_otherwise():
    same = jnp.ones((4, 2, 2, 3))
    assert minibatch_stddev(same).shape == (4, 2, 2, 4)
    np.testing.assert_allclose(minibatch_stddev(same)[..., 3], 1e-4, atol=1e-6)
    x = np.random.default_rng(0).normal(size=(4, 2, 2, 3)).astype(np.float32)
    np.testing.assert_allclose(
        minibatch_stddev(jnp.asarray(x))[..., 3], np.full((4, 2, 2), x.std(0).mean()), rtol=1e-4
    )


def test_minibatch_stddev_groups_every_second_sample_of_eight_and_keeps_the_type():
    x = np.random.default_rng(0).normal(size=(8, 2, 2, 3)).astype(np.float32)
    groups = [x[0::2].std(0).mean(), x[1::2].std(0).mean()]
    appended = minibatch_stddev(jnp.asarray(x))[..., 3]
    for sample, channel in enumerate(appended):
        np.testing.assert_allclose(channel, np.full((2, 2), groups[sample % 2]), rtol=1e-4)
    assert minibatch_stddev(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


def test_minibatch_stddev_is_zero_for_a_batch_that_is_no_multiple_of_the_group():
    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 3))
    np.testing.assert_allclose(minibatch_stddev(x)[..., 3], 1e-4, atol=1e-6)


def test_losses_at_known_logits():
    zero, large = jnp.zeros(2), jnp.full(2, 30.0)
    np.testing.assert_allclose(generator_loss(zero), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(discriminator_loss(large, -large), 0, atol=1e-6)
    np.testing.assert_allclose(generator_loss(-large), 30, rtol=1e-6)
    np.testing.assert_allclose(discriminator_loss(zero, zero), 2 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(discriminator_loss(-large, large), 60, rtol=1e-6)


def test_r1_of_a_linear_discriminator_is_the_squared_norm_of_its_weights():
    weights = jax.random.normal(jax.random.key(0), (4, 4, 3))
    penalty = r1_penalty(lambda x: jnp.einsum("bhwc,hwc->b", x, weights), jnp.ones((2, 4, 4, 3)))
    np.testing.assert_allclose(penalty, jnp.sum(weights**2), rtol=1e-5)


def test_there_is_one_logit_per_image_with_a_finite_second_gradient():
    module = Discriminator(filters=(4, 8))
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    params = nn.unbox(module.init(jax.random.key(1), x))
    assert module.apply(params, x).shape == (4,)
    gradient = jax.jit(jax.grad(lambda p: r1_penalty(lambda x: module.apply(p, x), x)))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("due, share", [(True, 1), (False, 0)])
def test_a_lazy_loss_and_its_gradient_are_there_where_it_is_due(due, share):
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}

    def loss(params, due):
        return params["b"] + 2 * lazy(due, lambda p: jnp.sum(p["a"] ** 3) * p["b"], params)

    value, gradient = jax.jit(jax.value_and_grad(loss))(params, due)
    np.testing.assert_allclose(value, 3 + share * 2 * (1 + 8) * 3)
    np.testing.assert_allclose(gradient["a"], share * 2 * 3 * np.array([1, 4]) * 3)
    np.testing.assert_allclose(gradient["b"], 1 + share * 2 * (1 + 8))


def test_the_condition_of_a_lazy_r1_returns_nothing_of_the_size_of_a_batch():
    discriminator, images = Discriminator(filters=(4, 8)), jnp.ones((7, 16, 16, 3))
    params = discriminator.init(jax.random.key(0), images)

    def loss(params, due):
        return lazy(due, lambda p: r1_penalty(lambda x: discriminator.apply(p, x), images), params)

    program = jax.make_jaxpr(jax.grad(loss))(params, True)
    (condition,) = [equation for equation in program.eqns if equation.primitive.name == "cond"]
    returned = sorted(variable.aval.shape for variable in condition.outvars)
    assert returned == sorted([(), *(leaf.shape for leaf in jax.tree.leaves(params))])
