import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from muse_jax.nn.convolutions import depthwise_conv


def grouped_conv(x, weights, kernel, stride):
    """The same convolution by XLA's grouped convolution."""
    channels = x.shape[-1]
    return lax.conv_general_dilated(
        x,
        weights.reshape(kernel, kernel, 1, channels),
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


@pytest.mark.parametrize("kernel, stride, size", [(3, 1, 5), (3, 2, 8), (5, 2, 7), (5, 1, 6)])
def test_depthwise_conv_and_its_gradients_equal_a_grouped_convolution(kernel, stride, size):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, size, size + 1, 3)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(kernel**2, 3)), jnp.float32)
    grad = jnp.asarray(rng.normal(size=(2, -(-size // stride), -(-(size + 1) // stride), 3)), jnp.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(conv, x, weights):
        value, pull = jax.vjp(lambda x, w: conv(x, w, kernel, stride), x, weights)
        return value, *pull(grad)

    ours = value_and_gradients(depthwise_conv, x, weights)
    for a, b in zip(ours, value_and_gradients(grouped_conv, x, weights), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
