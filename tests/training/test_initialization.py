"""Initial weights taken from another run."""

import jax
import jax.numpy as jnp
import numpy as np

from muse_jax.sharding.partitioning import make_mesh, replicated
from muse_jax.training.initialization import _place_matching


def test_weights_with_the_same_path_and_shape_are_cast_to_the_runs_dtype():
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    params = {"a": jnp.zeros((2, 3)), "b": {"c": jnp.zeros(4)}, "d": jnp.zeros(())}
    given = {
        "a": np.arange(6, dtype=np.float16).reshape(2, 3),
        "b": {"c": np.ones(5, np.float32)},  # another shape
        "other": np.ones(3),
        "d": np.float32(7),
    }
    placed = _place_matching(given, params, jax.tree.map(lambda _: replicated(mesh), params))
    assert sorted(placed) == ["['a']", "['d']"]
    assert placed["['a']"].dtype == jnp.float32 and float(placed["['d']"]) == 7
    np.testing.assert_array_equal(placed["['a']"], given["a"])
