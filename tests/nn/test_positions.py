"""Embeddings of tokens on grids of one, two and three axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from muse_jax.nn.positions import TokenGrid, check_tokens, entry_grid, repeat_grid

TABLES = {
    (5,): ["column"],
    (3, 4): ["row", "column"],
    (2, 3, 4): ["frame", "row", "column"],
    (2, 2, 3, 2): ["axis_3", "frame", "row", "column"],
}


@pytest.mark.parametrize("grid", TABLES)
@pytest.mark.parametrize("groups", [1, 2])
def test_an_embedding_is_the_sum_of_tokens_and_of_a_position_per_axis(grid, groups):
    module = TokenGrid(7, grid, 6, groups=groups)
    count = int(np.prod(grid))
    tokens = jax.random.randint(jax.random.key(0), (2, count * groups), 0, 8)
    params = nn.unbox(module.init(jax.random.key(1), tokens))["params"]
    assert set(params) == {"embedding", "norm", *(f"{name}_positions" for name in TABLES[grid])}
    out = module.apply({"params": params}, tokens)
    assert out.shape == (2, count, 6)
    tables = [params["embedding"]] if groups == 1 else params["embedding"]
    for b in range(2):
        for number, place in enumerate(np.ndindex(*grid)):
            own = tokens[b, number * groups : (number + 1) * groups]
            x = sum(table[token] for table, token in zip(tables, own, strict=True))
            x += sum(params[f"{name}_positions"][i] for name, i in zip(TABLES[grid], place, strict=True))
            expected = x / jnp.sqrt(jnp.mean(x**2) + 1e-6)
            np.testing.assert_allclose(out[b, number], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("low, high", [((3,), (6,)), ((2, 3), (4, 3)), ((1, 2, 2), (3, 4, 2))])
def test_a_state_is_repeated_over_the_positions_that_it_covers(low, high):
    x = jnp.arange(2 * np.prod(low) * 2.0).reshape(2, -1, 2)
    out = repeat_grid(x, low, high)
    for number, place in enumerate(np.ndindex(*high)):
        covering = tuple(i * small // large for i, small, large in zip(place, low, high, strict=True))
        np.testing.assert_array_equal(out[:, number], x[:, np.ravel_multi_index(covering, low)])


def test_tokens_of_another_number_or_type_are_refused():
    check_tokens("tokens", jnp.zeros((1, 24), int), (2, 3, 4))
    with pytest.raises(ValueError, match=r"shape \(1, 12\), but the grid 2x3x4 needs \(batch, 24\)"):
        check_tokens("tokens", jnp.zeros((1, 12), int), (2, 3, 4))
    with pytest.raises(ValueError, match="the grid 4x3 of 2 tokens a position needs"):
        check_tokens("tokens", jnp.zeros((1, 12), int), (4, 3), groups=2)
    with pytest.raises(ValueError, match="tokens has dtype float32, but token ids are integers"):
        check_tokens("tokens", jnp.zeros((1, 12)), (4, 3))


def test_groups_widen_the_last_axis_of_the_grid():
    class Network:
        grid, groups = (2, 3, 4), 3

    assert entry_grid(Network) == (2, 3, 12)
