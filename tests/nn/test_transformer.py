import jax
import jax.numpy as jnp
import numpy as np

from muse_jax.nn.transformer import gelu


def test_gelu_and_its_gradient_equal_those_of_jax():
    x = jnp.linspace(-6, 6, 101)
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=True), atol=1e-6)
    want = jax.vmap(jax.grad(lambda x: jax.nn.gelu(x, approximate=True)))(x)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), want, atol=1e-5)
