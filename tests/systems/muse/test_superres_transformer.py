"""The super-resolution network: what each input reaches, alignment, gradients, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from muse_jax.systems.muse.superres_transformer import SuperResTransformer

SIZES = {
    "vocab_size": 11,
    "low_vocab_size": 7,
    "grid": (4, 8),
    "low_grid": (2, 4),
    "width": 16,
    "depth": 4,
    "low_depth": 2,
    "heads": 2,
    "mlp_dim": 24,
    "text_dim": 5,
    "block": 2,
}
MASK = SIZES["vocab_size"]


@pytest.fixture(scope="module")
def model():
    network = SuperResTransformer(**SIZES)
    key = jax.random.key(0)
    tokens = jax.random.randint(key, (2, 32), 0, MASK + 1)
    low_tokens = jax.random.randint(key, (2, 8), 0, 7)
    text = jax.random.normal(key, (2, 3, 5))
    text_mask = jnp.array([[1, 1, 0], [0, 0, 0]], bool)
    params = nn.unbox(network.init(key, tokens, low_tokens, text, text_mask))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(key, x.shape), params)
    return network, params, tokens, low_tokens, text, text_mask


@pytest.fixture(scope="module")
def apply(model):
    return jax.jit(model[0].apply)


def test_logits_are_float32_over_the_high_resolution_codes(model, apply):
    logits = apply(*model[1:])
    assert logits.shape == (2, 32, 11) and logits.dtype == jnp.float32 and jnp.isfinite(logits).all()


def test_text_matters_where_its_mask_lets_it(model, apply):
    _, params, tokens, low_tokens, text, mask = model
    logits = apply(params, tokens, low_tokens, text, mask)
    hidden = apply(params, tokens, low_tokens, jnp.where(mask[..., None], text, 1e3), mask)
    np.testing.assert_array_equal(hidden, logits)
    changed = jnp.abs(apply(params, tokens, low_tokens, text + jnp.arange(5.0), mask) - logits).max((1, 2))
    assert changed[0] > 1e-3 and changed[1] == 0


def test_every_low_and_high_token_reaches_every_position(model, apply):
    _, params, tokens, low_tokens, text, mask = model
    logits = apply(params, tokens, low_tokens, text, mask)
    for place in range(8):
        other = low_tokens.at[:, place].set((low_tokens[:, place] + 1) % 7)
        assert (jnp.abs(apply(params, tokens, other, text, mask) - logits).max(-1) > 0).all()
    for place in (0, 9, 31):
        other = tokens.at[:, place].set((tokens[:, place] + 1) % MASK)
        assert (jnp.abs(apply(params, other, low_tokens, text, mask) - logits).max(-1) > 0).all()


def test_gradients_are_finite_and_reach_every_parameter(model):
    network, params, *inputs = model
    loss = lambda p: jnp.mean(nn.log_softmax(network.apply(p, *inputs))[..., 0])  # noqa: E731
    for grad in jax.tree.leaves(jax.jit(jax.grad(loss))(params)):
        assert jnp.isfinite(grad).all() and jnp.abs(grad).max() > 0


def test_layers_are_stacked_in_pairs_of_blocked_and_grid_attention(model):
    params = model[1]["params"]
    assert set(params["transformer"]["layers"]) == {"block_0", "block_1"}
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(params["transformer"]["layers"]))
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(params["low_transformer"]["layers"]))
    assert "cross_attention" not in params["low_transformer"]["layers"]["block_0"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"block": 3}, "block 3 does not divide the grid 4x8"),
        ({"depth": 3}, "choose an even depth"),
        ({"low_grid": (3, 4)}, "low_grid 3x4 does not divide the grid 4x8"),
        ({"low_grid": (4, 4)}, r"low_tokens has shape \(2, 8\), but the grid 4x4 needs \(batch, 16\)"),
    ],
)
def test_wrong_fields_are_refused_in_one_sentence(model, change, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: SuperResTransformer(**SIZES | change).init(jax.random.key(0), *model[2:]))
