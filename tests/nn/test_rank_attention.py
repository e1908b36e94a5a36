"""Attention by rank against a loop over queries and keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.nn.rank_attention import Ranks, attend_by_rank, attend_to_memory, remember

RNG = np.random.default_rng(0)
RANKS = np.array([[0, 0, -1, 1, 2, 3], [0, 2, 1, 1, -1, 3]])  # no rank is above that of the last token
WEIGHT = RNG.normal(size=RANKS.shape).astype(np.float32)
BATCH, HEADS, TOKENS, DIM = 2, 3, 6, 5


def draw(dtype=np.float32, offset=0.0):
    """Queries, keys and values; `offset**2` is added to all products of queries and keys."""
    query, key, value = RNG.normal(size=(3, BATCH, HEADS, TOKENS, DIM))
    query[..., 0] += offset
    key[..., 0] = offset
    return tuple(jnp.asarray(part, dtype) for part in (query, key, value))


def by_hand(stream, weight):
    query, key, value = (np.asarray(part, np.float64) for part in stream)
    out = np.zeros(query.shape)
    for b, h, q in np.ndindex(BATCH, HEADS, TOKENS):
        seen = [k for k in range(TOKENS) if 0 <= RANKS[b, k] <= RANKS[b, q]]
        scores = np.array([query[b, h, q] @ key[b, h, k] / np.sqrt(DIM) + weight[b, k] for k in seen])
        shares = np.exp(scores - scores.max(initial=-np.inf))
        out[b, h, q] = sum(
            (share * value[b, h, k] for share, k in zip(shares, seen, strict=True)), np.zeros(DIM)
        )
        out[b, h, q] /= shares.sum() or 1
    return out


@pytest.mark.parametrize("attend", [attend_by_rank, remember])
@pytest.mark.parametrize("weight", [WEIGHT, np.zeros((), np.float32)])
def test_a_token_attends_to_its_own_rank_and_lower_ones(attend, weight):
    stream = draw()
    (out,), kept = jax.jit(attend)((stream,), None, Ranks(RANKS, RANKS, weight))
    expected = by_hand(stream, np.broadcast_to(weight, RANKS.shape))
    there = np.broadcast_to((RANKS >= 0)[:, None], out.shape[:3])
    np.testing.assert_allclose(out[there], expected[there], rtol=1e-4, atol=1e-5)
    assert np.isfinite(out).all()  # also for tokens without any key
    assert kept is None or attend is remember
    if attend is remember:
        jax.tree.map(np.testing.assert_array_equal, kept, stream[1:])


def test_cached_attention_of_a_new_token_equals_attention_over_the_whole_sequence():
    stream = draw()
    last = tuple(part[:, :, -1:] for part in stream)
    memory = tuple(part[:, :, :-1] for part in stream[1:])
    ranks = Ranks(RANKS[:, -1:], RANKS[:, :-1], WEIGHT)
    (out,), kept = jax.jit(attend_to_memory)((last,), memory, ranks)
    np.testing.assert_allclose(out, by_hand(stream, WEIGHT)[:, :, -1:], rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, kept, last[1:])


def test_a_single_token_attends_to_itself_whatever_its_rank():
    _, _, value = last = tuple(part[:, :, -1:] for part in draw())
    memory = tuple(part[:, :, :-1] for part in draw()[1:])
    ranks = Ranks(np.full((BATCH, 1), -1), RANKS[:, :-1], WEIGHT)
    (out,), _ = attend_to_memory((last,), memory, ranks)
    np.testing.assert_allclose(out, value, rtol=1e-6)


@pytest.mark.parametrize("with_memory", [False, True])
def test_scores_of_bfloat16_inputs_are_float32(with_memory):
    """In bfloat16, scores of about 100 would be rounded to multiples of 0.5 and weights wrong by a tenth."""
    stream = draw(jnp.bfloat16, offset=10.0)
    expected = by_hand(stream, WEIGHT)[:, :, -1:]
    if with_memory:
        last, memory = (tuple(part[:, :, -1:] for part in stream), tuple(p[:, :, :-1] for p in stream[1:]))
        (out,), _ = attend_to_memory((last,), memory, Ranks(RANKS[:, -1:], RANKS[:, :-1], WEIGHT))
    else:
        (out,), _ = attend_by_rank((stream,), None, Ranks(RANKS, RANKS, WEIGHT))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float64)[:, :, -1:], expected, atol=0.02)
