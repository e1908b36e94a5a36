import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import dispatch
from pallas_kernels.local_attention import LocalKeys, local_attention


def _normal(seed, tokens, batch=2, heads=2, dim=4):
    return jax.random.normal(jax.random.key(seed), (batch, tokens, heads, dim))


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_a_window_wider_than_the_grid_is_full_attention(implementation):
    query, key, value = (_normal(seed, 12) for seed in range(3))
    out = local_attention(query, key, value, grid=(3, 4), window=(99, 101), implementation=implementation)
    np.testing.assert_allclose(out, jax.nn.dot_product_attention(query, key, value), atol=1e-5)


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_extra_keys_join_full_attention(implementation):
    query, key, value, extra_key, extra_value = (_normal(seed, 6) for seed in range(5))
    mask = jnp.array([[True] * 6, [True, False] * 3])
    out = local_attention(
        query, key, value, grid=(6,), window=(11,), extra_key=extra_key, extra_value=extra_value,
        extra_mask=mask, implementation=implementation,
    )  # fmt: skip
    seen = jnp.concatenate([jnp.ones((2, 6), bool), mask], axis=1)[:, None, None]
    key, value = (jnp.concatenate(pair, axis=1) for pair in ((key, extra_key), (value, extra_value)))
    np.testing.assert_allclose(out, jax.nn.dot_product_attention(query, key, value, mask=seen), atol=1e-5)


def test_extra_keys_are_visible_without_a_mask():
    query, key, value, extra = (_normal(seed, 6) for seed in range(4))
    call = {"grid": (6,), "window": (3,), "extra_key": extra, "extra_value": extra}
    out = local_attention(query, key, value, **call)
    masked = local_attention(query, key, value, **call, extra_mask=jnp.ones((2, 6), bool))
    np.testing.assert_array_equal(out, masked)


def test_direct_superres_reads_the_coarse_image_in_the_same_softmax():
    query, key, value = (_normal(seed, 54) for seed in range(3))
    coarse = LocalKeys(_normal(3, 6), _normal(4, 6), (2, 3), (3, 3))
    call = {"grid": (6, 9), "window": (3, 5), "coarse": coarse}
    out = jax.jit(lambda *a: local_attention(*a, **call, implementation="xla"))(query, key, value)
    expected = local_attention(query, key, value, **call, implementation="reference")
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_raises(
        AssertionError,
        np.testing.assert_allclose,
        out,
        local_attention(query, key, value, grid=(6, 9), window=(3, 5)),
        atol=1e-2,
    )


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_nuwa_s_mapping_to_a_key_grid_of_any_size_is_the_equation_by_loops(data):
    axes = data.draw(st.integers(1, 3))
    grid, keys = (tuple(data.draw(st.integers(1, 4)) for _ in range(axes)) for _ in range(2))
    window = tuple(data.draw(st.sampled_from([1, 3])) for _ in range(axes))
    query = _normal(0, math.prod(grid), batch=1)
    key, value = (_normal(seed, math.prod(keys), batch=1) for seed in (1, 2))
    extra_key, extra_value = (_normal(seed, 2, batch=1) for seed in (3, 4))
    out = local_attention(
        query, key, value, grid=grid, window=window, key_grid=keys, extra_key=extra_key,
        extra_value=extra_value, implementation="xla",
    )  # fmt: skip
    key, value, extra_key, extra_value = (
        np.asarray(x[0], np.float64) for x in (key, value, extra_key, extra_value)
    )
    for n, place in enumerate(np.ndindex(grid)):
        centre = [math.floor(i * c / x) for i, c, x in zip(place, keys, grid, strict=True)]
        near = [
            m
            for m, other in enumerate(np.ndindex(keys))
            if all(abs(a - i) <= e // 2 for a, i, e in zip(other, centre, window, strict=True))
        ]
        for head in range(2):
            k = np.concatenate([key[near, head], extra_key[:, head]])
            v = np.concatenate([value[near, head], extra_value[:, head]])
            weights = np.exp(k @ np.asarray(query[0, n, head], np.float64) / np.sqrt(4))
            expected = weights @ v / weights.sum()
            np.testing.assert_allclose(out[0, n, head], expected, atol=1e-5)


_QUERY = np.zeros((1, 36, 2, 4), np.float32)
_FEW = np.zeros((1, 9, 2, 4), np.float32)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"window": (3, 4)}, "window is 3x4, .* use odd sizes"),
        ({"window": (0, 3)}, "window is 0x3, .* use odd sizes"),
        ({"window": (3,)}, "one size an axis"),
        ({"grid": (1, 1, 6, 6), "window": (1, 1, 3, 3)}, "one to three axes"),
        ({"grid": (6, 7)}, r"query has shape \(1, 36, 2, 4\), .* grid 6x7 need \(1, 42, 2, 4\)"),
        ({"query": _QUERY[0]}, r"query has shape .*\(batch, tokens, heads, dim\)"),
        ({"coarse": LocalKeys(_FEW, _FEW, (4, 3), (3, 3))}, r"4x3 of coarse.window does not divide the grid"),
        ({"key_grid": (4, 3), "causal": True}, "4x3 of window does not divide the grid 6x6"),
        ({"key_grid": (3, 3)}, r"key has shape \(1, 36, 2, 4\), .* key grid 3x3 need \(1, 9, 2, 4\)"),
        ({"value": _FEW}, r"value has shape \(1, 9, 2, 4\)"),
        ({"key": _QUERY.astype(np.float16)}, "key is float16 and the query float32"),
        ({"key_grid": (3, 3), "key": _FEW, "value": _FEW, "causal": True}, "drop causal or the key grid"),
        ({"coarse": LocalKeys(_FEW, _FEW, (3, 3), (2, 3))}, r"coarse\.window is 2x3"),
        ({"coarse": LocalKeys(_FEW, _FEW, (2, 3), (3, 3))}, r"coarse\.key has shape"),
        ({"extra_key": _FEW}, "pass both or neither"),
        ({"extra_key": _FEW, "extra_value": _QUERY}, "extra_value has shape"),
        ({"extra_key": _FEW, "extra_value": _FEW, "extra_mask": np.ones((1, 9))}, "extra_mask is float64"),
        ({"implementation": "cuda"}, "must be one of reference, xla, tpu, gpu"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    arguments = {"query": _QUERY, "key": _QUERY, "value": _QUERY, "grid": (6, 6), "window": (3, 3)}
    with pytest.raises(ValueError, match=message) as error:
        local_attention(**arguments | change)
    assert str(error.value).endswith(".") and ". " not in str(error.value)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the platform of this test is a CPU")
class TestSelection:
    def test_the_platform_chooses_the_implementation(self, monkeypatch):
        monkeypatch.delenv(dispatch.VARIABLE, raising=False)
        assert dispatch.select(None) == "xla"

    def test_the_variable_chooses_if_the_caller_does_not(self, monkeypatch):
        monkeypatch.setenv(dispatch.VARIABLE, "reference")
        assert dispatch.select(None) == "reference"
        assert dispatch.select("xla") == "xla"

    @pytest.mark.parametrize("implementation", ["tpu", "gpu"])
    def test_an_implementation_that_does_not_run_here_is_refused(self, implementation, monkeypatch):
        with pytest.raises(ValueError, match=f"implementation is '{implementation}', but JAX runs on cpu"):
            dispatch.select(implementation)
        monkeypatch.setenv(dispatch.VARIABLE, implementation)
        with pytest.raises(ValueError, match=f"{dispatch.VARIABLE} is '{implementation}'"):
            local_attention(_QUERY, _QUERY, _QUERY, grid=(6, 6), window=(3, 3))
