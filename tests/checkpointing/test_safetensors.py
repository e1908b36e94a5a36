import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.interop.content_hash import content_hash

TREE = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.ones(4, np.float32)}


def test_the_hash_does_not_depend_on_order_or_device():
    other = {"b": jnp.asarray(TREE["b"]), "a": {"kernel": jnp.asarray(TREE["a"]["kernel"])}}
    assert content_hash(other) == content_hash(TREE)


@pytest.mark.parametrize(
    "change",
    [
        {"b": np.array([1, 1, 1, 1 + 1e-6], np.float32)},
        {"a": {"kernel": TREE["a"]["kernel"].reshape(3, 2)}},
        {"a": {"weight": TREE["a"]["kernel"]}},
    ],
    ids=["value", "shape", "name"],
)
def test_different_content_has_a_different_hash(change):
    assert content_hash({**TREE, **change}) != content_hash(TREE)


def test_rounded_weights_have_the_hash_of_the_exact_ones_in_that_precision():
    exact = {"a": np.linspace(-1, 1, 999, dtype=np.float32)}
    rounded = {"a": exact["a"].astype(jnp.bfloat16)}
    assert content_hash(rounded) != content_hash(exact)
    assert content_hash(rounded, jnp.bfloat16) == content_hash(exact, jnp.bfloat16)
