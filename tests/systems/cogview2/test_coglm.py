import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from muse_jax.nn.rank_attention import Ranks, attend_by_rank, attend_to_memory, visible
from muse_jax.systems.cogview2.coglm import CogLM, tile_positions
from muse_jax.systems.cogview2.sequences import (
    draw_patches,
    draw_spans,
    image_to_text,
    text_only,
    text_to_image,
)
from tests.systems.cogview2.coglm_tiny import NETWORK, VOCABULARY, batch, params


@jax.jit
def hidden(tokens, ranks, weight):
    return NETWORK.apply({"params": params()}, tokens, ranks, weight, method="hidden")


def by_hand(query, key, value, mask, weight):
    """Attention of one head, one query at a time."""
    out = np.zeros_like(query)
    for i, row in enumerate(query):
        keys = np.flatnonzero(mask[i])
        logits = key[keys] @ row / np.sqrt(len(row)) + weight[keys]
        weights = np.exp(logits - logits.max())
        out[i] = weights @ value[keys] / weights.sum()
    return out


def test_attention_is_softmax_over_what_the_rule_allows_plus_the_weights():
    rng = np.random.default_rng(0)
    qkv = rng.normal(size=(3, 1, 2, 6, 4)).astype(np.float32)
    weight = rng.normal(size=(1, 6)).astype(np.float32)
    ranks = jnp.array([[0, 0, -1, 2, 1, 3]])
    there = [0, 1, 3, 4, 5]
    mask = np.array(visible(ranks, ranks)[0]) | np.eye(6, dtype=bool)
    (out,), _ = attend_by_rank((tuple(jnp.asarray(qkv)),), None, Ranks(ranks, ranks, jnp.asarray(weight)))
    for head in range(2):
        expected = by_hand(*qkv[:, 0, head], mask, weight[0])
        np.testing.assert_allclose(out[0, head][there,], expected[there,], atol=1e-5)
    # The last token alone, over a memory of the others.
    new = tuple(jnp.asarray(part[:, :, 5:]) for part in qkv)
    memory = tuple(jnp.asarray(part[:, :, :5]) for part in qkv[1:])
    ranks = Ranks(jnp.array([[3]]), ranks[:, :5], jnp.asarray(weight))
    (last,), _ = attend_to_memory((new,), memory, ranks)
    for head in range(2):
        expected = by_hand(*qkv[:, 0, head], mask, weight[0])
        np.testing.assert_allclose(last[0, head, 0], expected[5], atol=1e-5)


def kinds():
    text, mask, image = batch()
    region, loss = draw_patches(jax.random.key(0), 4, (3, 3), 2, 0.9)
    drawn = np.zeros((4, 9), bool)
    drawn[:, [1, 2, 6]] = True
    return {
        "text to image": text_to_image(VOCABULARY, text, mask, image),
        "region": text_to_image(VOCABULARY, text, mask, image, drawn),
        "image to text": image_to_text(VOCABULARY, text, mask, image, region, loss),
        "text only": text_only(VOCABULARY, text, mask, 9, *draw_spans(jax.random.key(1), mask)),
    }


@pytest.mark.parametrize("kind", ["text to image", "region", "image to text", "text only"])
def test_a_token_changes_what_may_see_it_and_nothing_else(kind):
    sequence = kinds()[kind]
    length = NETWORK.length
    for b in range(2):
        tokens, ranks = np.array(sequence.tokens[b]), np.array(sequence.ranks[b])
        changed = np.tile(tokens, (length + 1, 1))
        changed[np.arange(length), np.arange(length)] = (tokens + 7) % VOCABULARY.size
        states = np.array(hidden(changed, np.tile(ranks, (length + 1, 1)), jnp.zeros((length + 1, length))))
        seen = np.array(visible(sequence.ranks, sequence.ranks))[b]
        there = np.flatnonzero(ranks >= 0)
        for key in range(length):
            moved = np.abs(states[key] - states[-1]).max(axis=-1)
            np.testing.assert_array_equal(moved[there] > 0, seen[there, key], err_msg=f"token {key}")


def test_the_cache_gives_the_states_of_the_full_pass():
    """Texts of four lengths; a whole image, runs at both ends, one token, and nothing to draw."""
    text, mask, image = batch()
    drawn = np.array([[1] * 9, [1, 1, 0, 0, 0, 1, 0, 0, 1], [0, 0, 0, 1, 0, 0, 0, 0, 0], [0] * 9], bool)
    sequence = text_to_image(VOCABULARY, text, mask, image, drawn)
    slots = jnp.arange(NETWORK.length)
    weight = jnp.broadcast_to(jnp.where(slots < NETWORK.text_length, 1.3, 0.0), sequence.ranks.shape)
    full = hidden(sequence.tokens, sequence.ranks, weight)

    @jax.jit
    def cached(sequence):
        variables = {"params": params()}
        known = jnp.where(sequence.ranks < 2, sequence.ranks, -1)
        cache = NETWORK.apply(variables, sequence.tokens, known, weight, method="read")

        def step(cache, slot):
            token, rank = sequence.tokens[:, slot], sequence.ranks[:, slot]
            # A token that is known already is not to be read again: the cache of that sample stays.
            state, new = NETWORK.apply(variables, token, jnp.full(4, slot), rank, cache, method="extend")
            keep = rank < 2
            pick = lambda axis, a, b: jnp.where(  # noqa: E731
                keep.reshape([-1 if i == axis else 1 for i in range(a.ndim)]), b, a
            )
            new = new.replace(
                key=pick(1, new.key, cache.key),
                value=pick(1, new.value, cache.value),
                ranks=pick(0, new.ranks, cache.ranks),
            )
            return new, state

        return jax.lax.scan(step, cache, jnp.arange(NETWORK.text_length, NETWORK.length))

    _, states = cached(sequence)
    region = np.array(sequence.ranks)[:, NETWORK.text_length :] >= 2
    states = np.moveaxis(np.array(states), 0, 1)
    np.testing.assert_allclose(states[region], np.array(full)[:, NETWORK.text_length :][region], atol=1e-5)
    assert region.sum() == 10 + 7 + 2


def test_a_text_weight_moves_the_image_and_not_the_text():
    text, mask, image = batch()
    sequence = text_to_image(VOCABULARY, text, mask, image)
    slots = jnp.arange(NETWORK.length)
    weight = jnp.broadcast_to(jnp.where(slots < NETWORK.text_length, 3.0, 0.0), sequence.ranks.shape)
    moved = np.abs(hidden(sequence.tokens, sequence.ranks, weight) - hidden(*_plain(sequence))).max(axis=-1)
    assert moved[0, :4].max() < 1e-5 and moved[0, NETWORK.text_length :].min() > 1e-3
    assert moved[2, NETWORK.text_length :].max() == 0  # no text to weigh


def _plain(sequence):
    return sequence.tokens, sequence.ranks, jnp.zeros(sequence.ranks.shape)


def sizes(jaxpr):
    """Of all arrays that a traced program makes, inner programs included."""
    for eqn in jaxpr.eqns:
        yield from (variable.aval.size for variable in eqn.outvars if hasattr(variable.aval, "size"))
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


def test_the_step_of_a_large_vocabulary_never_holds_all_logits():
    network = CogLM(vocab_size=150_000, width=32, depth=2, heads=2, mlp_dim=64)
    tokens = jax.ShapeDtypeStruct((4, network.length), jnp.int32)
    shapes = meta.unbox(jax.eval_shape(network.init, jax.random.key(0), tokens, tokens))

    def loss(variables, tokens):
        hidden = network.apply(variables, tokens, tokens, method="hidden")
        return network.apply(variables, hidden, tokens, method="cross_entropy").mean()

    every = list(sizes(jax.make_jaxpr(jax.grad(loss))(shapes, tokens).jaxpr))
    assert max(every) >= 150_000 * 32  # the table's gradient is seen
    assert max(every) < 0.05 * 4 * 512 * 150_000


def test_tiled_positions_repeat_the_grid_side_by_side():
    table = np.arange(6)[:, None] * np.ones((1, 2))
    tiled = tile_positions(jnp.asarray(table), (2, 3), 2)
    np.testing.assert_array_equal(tiled[:, 0].reshape(4, 6), np.tile(np.arange(6).reshape(2, 3), (2, 2)))


def test_shapes_that_do_not_fit_are_refused_in_one_sentence():
    tokens = jnp.zeros((1, 9), jnp.int32)
    with pytest.raises(ValueError, match=r"tokens has shape \(1, 9\), but sequences of 5 text slots"):
        NETWORK.init(jax.random.key(0), tokens, tokens)
    tokens = jnp.zeros((1, NETWORK.length), jnp.int32)
    with pytest.raises(ValueError, match="image_position is 4, but the text uses the positions up to 4"):
        NETWORK.clone(image_position=4).init(jax.random.key(0), tokens, tokens)
