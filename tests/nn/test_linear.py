"""Linear layers against plain matrix products and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.nn.linear import Dense, project


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("inputs, outputs", [(3, (7,)), (7, (3,)), (5, (3, 2, 4)), (9, (2, 1, 3))])
def test_project_is_a_matrix_product_with_its_gradient(inputs, outputs):
    def product(x, kernel):
        return (x @ kernel.reshape(inputs, -1)).reshape(*x.shape[:-1], *outputs)

    x, kernel = normal(2, 5, inputs), normal(inputs, *outputs, seed=1)
    np.testing.assert_allclose(project(x, kernel), product(x, kernel), atol=1e-5)

    def gradients(function):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(function(*a))), (0, 1))(x, kernel)

    for got, expected in zip(gradients(project), gradients(product), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_dense_starts_with_the_variance_of_its_inputs():
    dense = Dense((4, 32), ("embed", "heads", "kv"), scale=0.5)
    kernel = dense.init(jax.random.key(0), normal(1, 256))["params"]["kernel"].value
    assert kernel.shape == (256, 4, 32) and float(kernel.std()) == pytest.approx(0.5 / 16, rel=0.02)
