import jax
import jax.numpy as jnp
import numpy as np

from muse_jax.nn.norms import RMSNorm


def test_rms_norm_is_its_formula_and_stays_in_float32_inside():
    x = jax.random.normal(jax.random.key(0), (2, 3, 16)) * 300
    out = RMSNorm(jnp.bfloat16).apply({"params": {"scale": jnp.full(16, 2.0)}}, x)
    want = 2 * x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), want, rtol=1e-2, atol=1e-2)


def test_rms_norm_keeps_the_dtype_of_its_input_by_default():
    x = jnp.ones((2, 4), jnp.bfloat16)
    params = {"params": {"scale": jnp.ones(4)}}
    assert RMSNorm().apply(params, x).dtype == jnp.bfloat16
    assert RMSNorm(jnp.float32).apply(params, x).dtype == jnp.float32
