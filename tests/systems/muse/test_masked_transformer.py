"""The base network: text masks, positions, the tied head, dtypes, gradients, depth, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from muse_jax.systems.muse.masked_transformer import MaskedTransformer

SIZES = {"vocab_size": 11, "grid": (2, 3), "width": 16, "depth": 3, "heads": 2, "mlp_dim": 24, "text_dim": 5}
MASK = SIZES["vocab_size"]


@pytest.fixture(scope="module")
def model():
    """A network, parameters away from their initial zeros and ones, and inputs, one row without text."""
    network = MaskedTransformer(**SIZES)
    key = jax.random.key(0)
    tokens = jax.random.randint(key, (3, 6), 0, MASK + 1)
    text = jax.random.normal(key, (3, 4, 5))
    text_mask = jnp.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    params = nn.unbox(network.init(key, tokens, text, text_mask))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(key, x.shape), params)
    return network, params, tokens, text, text_mask


@pytest.fixture(scope="module")
def apply(model):
    return jax.jit(model[0].apply)


def test_logits_are_float32_over_the_codes_and_finite_without_text(model, apply):
    _, *arguments = model
    logits = apply(*arguments)
    assert logits.shape == (3, 6, 11) and logits.dtype == jnp.float32
    assert jnp.isfinite(logits).all()


def test_text_that_is_masked_out_has_no_influence(model, apply):
    _, params, tokens, text, mask = model
    changed = jnp.where(mask[..., None], text, 1e3)
    np.testing.assert_array_equal(apply(params, tokens, changed, mask), apply(params, tokens, text, mask))


def test_padding_has_no_influence(model, apply):
    _, params, tokens, text, mask = model
    padded = jnp.pad(text, ((0, 0), (0, 3), (0, 0)), constant_values=7.0)
    logits = apply(params, tokens, padded, jnp.pad(mask, ((0, 0), (0, 3))))
    np.testing.assert_allclose(logits, apply(params, tokens, text, mask), atol=1e-5)


def test_text_matters_but_its_order_does_not(model, apply):
    _, params, tokens, text, mask = model
    logits = apply(params, tokens, text, mask)
    np.testing.assert_allclose(apply(params, tokens, text[:, ::-1], mask[:, ::-1]), logits, atol=1e-5)
    changed = jnp.abs(apply(params, tokens, text + jnp.arange(5.0), mask) - logits).max(axis=(1, 2))
    assert (changed[:2] > 1e-3).all() and changed[2] == 0


def test_positions_are_all_told_apart(model, apply):
    _, params, _, text, mask = model
    logits = np.asarray(apply(params, jnp.full((3, 6), MASK), text, mask)[0])
    distances = np.abs(logits[:, None] - logits[None]).max(-1)
    assert (distances + np.eye(6) > 1e-4).all()


def test_every_token_reaches_every_position(model, apply):
    _, params, tokens, text, mask = model
    for place in range(6):
        other = tokens.at[:, place].set((tokens[:, place] + 1) % MASK)
        change = jnp.abs(apply(params, other, text, mask) - apply(params, tokens, text, mask)).max(-1)
        assert (change > 0).all()


def test_head_is_the_token_table_without_its_mask_row(model, apply):
    network, params, *inputs = model
    hidden = network.apply(params, *inputs, method="hidden")
    table, bias = network.apply(params, method="output_embedding")
    np.testing.assert_array_equal(table, params["params"]["embedding"]["embedding"][:MASK])
    want = np.asarray(hidden, np.float64) @ np.asarray(table, np.float64).T + np.asarray(bias)
    np.testing.assert_allclose(apply(params, *inputs), want, atol=1e-4)


def test_bfloat16_is_close_to_float32_with_float32_parameters(model, apply):
    _, params, *inputs = model
    network = MaskedTransformer(**SIZES, dtype=jnp.bfloat16)
    logits = network.apply(params, *inputs)
    assert logits.dtype == jnp.float32
    assert all(
        x.dtype == jnp.float32
        for x in jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0), *inputs))
    )
    want = apply(params, *inputs)
    assert jnp.sqrt(jnp.mean((logits - want) ** 2)) < 0.03 * jnp.std(want)


def test_gradients_reach_every_parameter_and_remat_does_not_change_them(model):
    _, params, *inputs = model

    def grads(remat):
        network = MaskedTransformer(**SIZES, remat=remat)
        return jax.jit(jax.grad(lambda p: jnp.mean(nn.log_softmax(network.apply(p, *inputs))[..., 0])))(
            params
        )

    plain, again = grads(False), grads(True)
    for got, want in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True):
        assert jnp.isfinite(want).all() and jnp.abs(want).max() > 0
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_layers_are_stacked_and_every_parameter_has_axis_names(model):
    network, _, *inputs = model
    boxed = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    boxes = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))
    assert all(isinstance(box, nn.Partitioned) and len(box.names) == box.value.ndim for box in boxes)
    layers = jax.tree.leaves(boxed["transformer"]["layers"], is_leaf=lambda x: isinstance(x, nn.Partitioned))
    assert layers and all(box.names[0] == "layers" and box.value.shape[0] == 3 for box in layers)


def test_the_program_does_not_grow_with_depth(model):
    _, _, *inputs = model

    def size(depth):
        network = MaskedTransformer(**{**SIZES, "depth": depth})
        params = jax.eval_shape(network.init, jax.random.key(0), *inputs)
        return len(str(jax.make_jaxpr(network.apply)(params, *inputs)).splitlines())

    assert size(2) == size(20)


def test_dropout_draws_from_its_key_and_only_in_training(model):
    _, params, *inputs = model
    network = MaskedTransformer(**SIZES, dropout=0.5)
    train = jax.jit(lambda key: network.apply(params, *inputs, deterministic=False, rngs={"dropout": key}))
    first, second = train(jax.random.key(1)), train(jax.random.key(2))
    np.testing.assert_array_equal(first, train(jax.random.key(1)))
    assert jnp.abs(first - second).max() > 1e-3


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"tokens": jnp.zeros((1, 5), jnp.int32)},
            r"tokens has shape \(1, 5\), but the grid 2x3 needs \(batch, 6\)",
        ),
        ({"tokens": jnp.zeros((1, 6))}, "token ids are integers"),
        ({"text": jnp.zeros((1, 4, 7))}, r"the network reads \(batch, text tokens, 5\)"),
        ({"text_mask": jnp.ones((1, 3), bool)}, "pass one flag a text token"),
    ],
)
def test_wrong_inputs_are_refused_in_one_sentence(change, message):
    inputs = {"tokens": jnp.zeros((1, 6), jnp.int32), "text": jnp.zeros((1, 4, 5))}
    inputs |= {"text_mask": jnp.ones((1, 4), bool)} | change
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: MaskedTransformer(**SIZES).init(jax.random.key(0), **inputs))


def test_heads_that_do_not_divide_the_width_are_refused(model):
    _, _, *inputs = model
    with pytest.raises(ValueError, match="width 16 does not split into 3 heads"):
        MaskedTransformer(**{**SIZES, "heads": 3}).init(jax.random.key(0), *inputs)
