"""Networks over several tokens a position: what each token reaches, and the logits of each group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from muse_jax.nn.positions import entry_grid
from muse_jax.systems.muse.masked_transformer import MaskedTransformer
from muse_jax.systems.muse.superres_transformer import SuperResTransformer

WIDTHS = {"width": 16, "heads": 2, "mlp_dim": 24, "text_dim": 5}


def perturbed(network, *tokens):
    text, mask = jax.random.normal(jax.random.key(1), (2, 3, 5)), jnp.ones((2, 3), bool)
    params = nn.unbox(network.init(jax.random.key(0), *tokens, text, mask))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(2), x.shape), params)
    return params, text, mask


@pytest.fixture(scope="module")
def base():
    network = MaskedTransformer(vocab_size=7, groups=2, grid=(2, 3), depth=2, **WIDTHS)
    tokens = jax.random.randint(jax.random.key(3), (2, 12), 0, 8)
    return network, tokens, *perturbed(network, tokens)


@pytest.fixture(scope="module")
def superres():
    network = SuperResTransformer(
        7, 5, grid=(4, 4), low_grid=(2, 2), depth=2, low_depth=1, block=2, groups=3, low_groups=2, **WIDTHS
    )
    tokens = jax.random.randint(jax.random.key(3), (2, 48), 0, 8)
    low = jax.random.randint(jax.random.key(4), (2, 8), 0, 5)
    return network, tokens, low, *perturbed(network, tokens, low)


def test_logits_are_each_groups_table_times_the_hidden_state(base):
    network, tokens, params, text, mask = base
    logits = network.apply(params, tokens, text, mask)
    hidden = network.apply(params, tokens, text, mask, method="hidden")
    tables, bias = params["params"]["embedding"]["embedding"], params["params"]["bias"]
    assert logits.shape == (2, 12, 7) and hidden.shape == (2, 6, 16)
    for position, group in np.ndindex(6, 2):
        expected = hidden[:, position] @ tables[group, :7].T + bias[group]
        np.testing.assert_allclose(logits[:, 2 * position + group], expected, atol=1e-5)
    drawn_from = network.apply(params, tokens, text, mask, method="linear_logits")
    np.testing.assert_array_equal(drawn_from, logits)


def test_a_token_is_embedded_by_a_row_of_its_own_groups_table(base):
    network, tokens, params, text, mask = base
    tokens = jnp.where(jnp.arange(12) % 2 == 0, 2, 3) * jnp.ones_like(tokens)

    def logits(group=None, row=None):
        tree = jax.tree.map(lambda leaf: leaf, params)
        if group is not None:
            table = tree["params"]["embedding"]["embedding"]
            tree["params"]["embedding"]["embedding"] = table.at[group, row].add(1.0)
        # The output's logits read the table too: only those of rows that are left alone are compared.
        return network.apply(tree, tokens, text, mask)[..., 4:]

    changes = {place: jnp.abs(logits(*place) - logits()).max() for place in np.ndindex(2, 4)}
    assert {place for place, change in changes.items() if change > 1e-4} == {(0, 2), (1, 3)}
    assert all(change == 0 for place, change in changes.items() if place not in {(0, 2), (1, 3)})


@pytest.mark.parametrize("entry", [0, 1])
def test_each_token_of_a_position_reaches_the_other_and_every_position(base, entry):
    network, tokens, params, text, mask = base
    changed = tokens.at[:, 2 + entry].set((tokens[:, 2 + entry] + 3) % 8)
    difference = jnp.abs(
        network.apply(params, changed, text, mask) - network.apply(params, tokens, text, mask)
    )
    assert (difference.max(-1) > 1e-5).all()


def test_super_resolution_reads_groups_of_both_grids(superres):
    network, tokens, low, params, text, mask = superres
    logits = network.apply(params, tokens, low, text, mask)
    assert logits.shape == (2, 48, 7)
    for place in (0, 1):
        changed = network.apply(params, tokens, low.at[:, place].set((low[:, place] + 1) % 5), text, mask)
        assert (jnp.abs(changed - logits).max(-1) > 1e-6).all()


def test_the_flat_tokens_fill_a_wider_grid_row_by_row(base):
    network = base[0]
    assert network.num_tokens == 12 and entry_grid(network) == (2, 6)


def test_a_sequence_without_its_groups_is_refused(base):
    network, tokens, params, text, mask = base
    with pytest.raises(ValueError, match="2x3 of 2 tokens a position needs"):
        network.apply(params, tokens[:, :6], text, mask)
