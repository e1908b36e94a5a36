import os
import subprocess
import sys

_PROGRAM = """
import functools
import jax, numpy as np
from jax.sharding import AxisType
from pallas_kernels.local_attention import xla
from pallas_kernels.local_attention.geometry import Geometry, make_window
from pallas_kernels.sharding import split_over_mesh

geometry = Geometry((6,), (make_window("window", (6,), (3,)),))
attend = functools.partial(xla.attend, geometry=geometry)
query, key, value, *extra = jax.random.normal(jax.random.key(0), (5, 2, 6, 2, 4))
mask = np.arange(12).reshape(2, 6) % 3 > 0

def grads(attend, query, key, value, extra):
    def loss(query, key, value, extra):
        return (attend(query, (key,), (value,), (*extra, mask)) ** 2).sum()
    return jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(query, key, value, extra)

whole = jax.jit(functools.partial(grads, attend))(query, key, value, extra)
# Two samples and two heads: the axes data and tensor split them, and nothing is left for fsdp.
mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
with jax.set_mesh(mesh):
    function = jax.jit(functools.partial(grads, functools.partial(split_over_mesh, attend)))
    split = function(query, key, value, extra)
    text = function.lower(query, key, value, extra).as_text()
assert "tensor<1x6x1x4xf32>" in text
for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(split)):
    np.testing.assert_allclose(a, b, atol=1e-5)
"""


def test_samples_and_heads_are_split_over_a_mesh_and_give_the_same_values_and_gradients():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
