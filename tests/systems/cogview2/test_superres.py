import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from muse_jax.nn.rank_attention import Ranks
from muse_jax.systems.cogview2.superres import (
    DirectAttention,
    DirectSuperRes,
    IterativeAttention,
    IterativeSuperRes,
    direct_from_coglm,
    iterative_from_coglm,
    join_params,
    split_params,
)
from muse_jax.systems.cogview2.superres_sampling import coarse_sequence
from tests.systems.cogview2.coglm_tiny import VOCABULARY, batch, params

SIZES = {"vocab_size": 33, "image_position": 7, "width": 16, "depth": 2, "heads": 2, "mlp_dim": 24}
# Windows so small that a token two layers away is still out of sight.
DIRECT = DirectSuperRes(**SIZES, grid=(3, 3), text_length=5, factor=2, window=(3, 1), coarse_window=(1, 1))
ITERATIVE = IterativeSuperRes(**SIZES, grid=(6, 6), text_length=4, window=(3, 1))


def direct_params():
    own = direct_from_coglm(params(), (3, 3), 2)
    # Apart from the CogLM's, so that the two are not taken for each other.
    return join_params(params(), jax.tree.map(lambda leaf: 1.3 * leaf, own))


def near(query_grid, key_grid, window):
    """(queries, keys): whether a key lies in the window around a query's place, by going through all."""
    (h, w), (kh, kw) = query_grid, key_grid
    seen = np.zeros((h * w, kh * kw), bool)
    for i in range(h):
        for j in range(w):
            for a in range(kh):
                for b in range(kw):
                    far = abs(i * kh // h - a), abs(j * kw // w - b)
                    seen[i * w + j, a * kw + b] = far[0] <= window[0] // 2 and far[1] <= window[1] // 2
    return seen


def dense(query, key, value, seen):
    """Attention (heads, tokens, dim) under a mask (queries, keys), all pairs."""
    logits = np.einsum("hqd,hkd->hqk", query, key) / np.sqrt(query.shape[-1])
    weights = np.exp(np.where(seen, logits, -np.inf) - logits.max(axis=-1, keepdims=True))
    return np.einsum("hqk,hkd->hqd", weights / weights.sum(axis=-1, keepdims=True), value)


def qkv(rng, tokens):
    return tuple(rng.normal(size=(3, 1, 2, tokens, 4)).astype(np.float32))


def direct_mask(ranks):
    """(fine, sequence + fine): what the fine tokens see."""
    text = np.zeros((36, len(ranks) - 9), bool)
    return np.concatenate(
        [text, near((6, 6), (3, 3), DIRECT.coarse_window), near((6, 6), (6, 6), DIRECT.window)], axis=1
    )


def test_direct_attention_is_dense_attention_under_its_mask():
    rng = np.random.default_rng(0)
    ranks = np.array([0, 0, 0, -1, -1, 1] + [1] * 9)
    sequence, fine = qkv(rng, 15), qkv(rng, 36)
    attend = DirectAttention((6, 6), DIRECT.window, (3, 3), DIRECT.coarse_window)
    (read, drawn), _ = attend(
        jax.tree.map(jnp.asarray, (sequence, fine)), None, Ranks(ranks[None], ranks[None], jnp.zeros(()))
    )
    seen = (ranks >= 0) & (ranks <= ranks[:, None])
    there = ranks >= 0
    want = dense(sequence[0][0][:, there], sequence[1][0], sequence[2][0], seen[there])
    np.testing.assert_allclose(read[0][:, there], want, atol=1e-5)
    keys, values = (np.concatenate([sequence[i][0], fine[i][0]], axis=1) for i in (1, 2))
    np.testing.assert_allclose(drawn[0], dense(fine[0][0], keys, values, direct_mask(ranks)), atol=1e-5)


def test_iterative_attention_is_dense_attention_under_its_mask():
    rng = np.random.default_rng(1)
    mask = np.array([1, 1, 0, 0], bool)
    text, image = qkv(rng, 4), qkv(rng, 36)
    attend = IterativeAttention((6, 6), (3, 5))
    (read, drawn), _ = attend(jax.tree.map(jnp.asarray, (text, image)), None, jnp.asarray(mask[None]))
    want = dense(text[0][0][:, mask], text[1][0], text[2][0], np.tile(mask, (2, 1)))
    np.testing.assert_allclose(read[0][:, mask], want, atol=1e-5)
    keys, values = (np.concatenate([text[i][0], image[i][0]], axis=1) for i in (1, 2))
    seen = np.concatenate([np.tile(mask, (36, 1)), near((6, 6), (6, 6), (3, 5))], axis=1)
    np.testing.assert_allclose(drawn[0], dense(image[0][0], keys, values, seen), atol=1e-5)


def reach(seen, depth):
    """What a layer's inputs can change after `depth` layers."""
    once = (seen | np.eye(len(seen), dtype=bool)).astype(int)
    return np.linalg.matrix_power(once, depth) > 0


def test_the_direct_network_leaks_nothing():
    """Changing each token of the sequence moves the fine logits that it can reach, and no other."""
    text, text_mask, image = (part[:1] for part in batch())
    text_mask = text_mask & (np.arange(4) < 2)
    sequence = coarse_sequence(VOCABULARY, text, text_mask, image)
    tokens, ranks = np.array(sequence.tokens[0]), np.array(sequence.ranks[0])
    length = len(tokens)
    changed = np.tile(tokens, (length + 1, 1))
    changed[np.arange(length), np.arange(length)] = (tokens + 7) % VOCABULARY.size
    logits = jax.jit(DIRECT.apply)({"params": direct_params()}, changed, np.tile(ranks, (length + 1, 1)))
    seen = np.zeros((length + 36, length + 36), bool)
    seen[:length, :length] = (ranks >= 0) & (ranks <= ranks[:, None])
    seen[length:] = direct_mask(ranks)
    moves = reach(seen, DIRECT.depth)[length:, :length]
    assert 0 < moves.mean() < 1
    for key in range(length):
        if key != DIRECT.text_length:  # <start_of_image> is the fine tokens' input too
            moved = np.abs(logits[key] - logits[-1]).max(axis=-1)
            np.testing.assert_array_equal(moved > 0, moves[:, key], err_msg=f"token {key}")


def test_the_iterative_network_leaks_nothing():
    """Changing a token of the image moves the logits near it, one of the text all of them, pads none."""
    rng = np.random.default_rng(2)
    tokens, text = rng.integers(0, 20, 36), rng.integers(20, 30, 4)
    mask = np.array([1, 1, 0, 0], bool)
    both = np.concatenate([text, tokens])
    changed = np.tile(both, (41, 1))
    changed[np.arange(40), np.arange(40)] = (both + 7) % VOCABULARY.size
    weights = iterative_from_coglm(params(), (3, 3), 2)
    logits = jax.jit(ITERATIVE.apply)(
        {"params": weights}, changed[:, 4:], changed[:, :4], np.tile(mask, (41, 1))
    )
    seen = np.zeros((40, 40), bool)
    seen[:, :4] = mask
    seen[4:, 4:] = near((6, 6), (6, 6), ITERATIVE.window)
    moves = reach(seen, ITERATIVE.depth)[4:]
    for key in range(40):
        moved = np.abs(logits[key] - logits[-1]).max(axis=-1)
        np.testing.assert_array_equal(moved > 0, moves[:, key], err_msg=f"token {key}")


def test_the_direct_network_is_a_coglm_and_a_copy_of_its_attention():
    tokens = jnp.zeros((1, DIRECT.length), jnp.int32)
    shapes = meta.unbox(jax.eval_shape(DIRECT.init, jax.random.key(0), tokens, tokens)["params"])
    coglm, own = split_params(shapes)
    size = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)  # noqa: E731
    start = direct_from_coglm(params(), (3, 3), 2)
    assert size(coglm) == size(params()) and size(own) == size(start)
    assert size(join_params(coglm, own)) == size(shapes)
    fine, attention = (
        tree["transformer"]["layers"][name]
        for tree, name in ((start, "fine_attention"), (params(), "attention"))
    )
    jax.tree.map(np.testing.assert_array_equal, fine, attention)
    table = np.array(params()["position_embedding"][8:]).reshape(3, 3, 16)
    tiled = np.array(start["fine_position_embedding"]).reshape(6, 6, 16)
    np.testing.assert_array_equal(tiled[4, 5], table[1, 2])


def test_the_iterative_network_has_the_coglm_s_weights_and_tiled_positions():
    args = jnp.zeros((1, 36), jnp.int32), jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    shapes = meta.unbox(jax.eval_shape(ITERATIVE.init, jax.random.key(0), *args)["params"])
    start = iterative_from_coglm(params(), (3, 3), 2)
    assert jax.tree.map(jnp.shape, start) == jax.tree.map(jnp.shape, shapes)
    np.testing.assert_array_equal(start["position_embedding"][:8], params()["position_embedding"][:8])
    np.testing.assert_array_equal(
        start["position_embedding"][8 + 4 * 6 + 5], params()["position_embedding"][8 + 5]
    )


@pytest.mark.parametrize("name", ["tokens", "text", "text_mask"])
def test_inputs_of_another_size_are_refused_in_one_sentence(name):
    given = {"tokens": (1, 36), "text": (1, 4), "text_mask": (1, 4)} | {name: (1, 5)}
    args = {key: jnp.zeros(shape, bool if key == "text_mask" else jnp.int32) for key, shape in given.items()}
    message = rf"{name} has shape \(1, 5\), but 4 text slots and a grid of 6x6 tokens need"
    with pytest.raises(ValueError, match=message):
        ITERATIVE.init(jax.random.key(0), **args)
