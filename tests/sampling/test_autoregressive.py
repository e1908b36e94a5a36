"""Autoregressive decoding against a loop over Python lists with the same noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.sampling import DecodeStep
from muse_jax.sampling.autoregressive import Sampling, autoregressive_decode
from muse_jax.sampling.clusters import sample_by_cluster

VOCAB, LENGTH = 7, 8
TABLE = np.random.default_rng(0).normal(size=(LENGTH, VOCAB, VOCAB)).astype(np.float32)
TOKENS = np.random.default_rng(1).integers(0, VOCAB, (5, LENGTH)).astype(np.int32)
DRAWN = np.array(
    [
        [0, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 1, 1, 0, 0, 1, 0],
        [0, 1, 0, 1, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ],
    bool,
)
END = 3


def next_logits(token, place, cache):
    """Logits from a table by token and position, plus a slope by the sum of all tokens read: the cache."""
    total = cache + token
    return jnp.asarray(TABLE)[place, token] + 0.1 * total[:, None] * jnp.arange(VOCAB), total


@jax.jit
def decode(tokens, drawn, key, sampling):
    cache = jnp.zeros(len(tokens))
    return autoregressive_decode(next_logits, cache, tokens, drawn, key, sampling=sampling)


def by_hand(tokens, drawn, key, temperature, end=None):
    out = tokens.tolist()
    count = max(sum(d[p] or (p + 1 < LENGTH and d[p + 1]) for p in range(LENGTH)) for d in drawn.tolist())
    noise = [
        np.array(jax.random.gumbel(jax.random.fold_in(key, t), (len(tokens), VOCAB))) for t in range(count)
    ]
    for b, region in enumerate(drawn.tolist()):
        total, step, ended = 0.0, 0, False
        for place in range(LENGTH - 1):
            if not (region[place] or region[place + 1]):
                continue
            token = out[b][place]
            total += token
            logits = TABLE[place, token] + 0.1 * total * np.arange(VOCAB)
            if region[place + 1]:
                drawn_token = int(np.argmax(logits / temperature + noise[step][b]))
                out[b][place + 1] = end if ended else drawn_token
                ended = ended or (end is not None and out[b][place + 1] == end)
            step += 1
    return np.array(out)


@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force_and_leaves_the_rest_alone(seed):
    key = jax.random.key(seed)
    out = np.array(decode(TOKENS, DRAWN, key, Sampling(jnp.float32(0.8))))
    np.testing.assert_array_equal(out, by_hand(TOKENS, DRAWN, key, 0.8))
    np.testing.assert_array_equal(out[~DRAWN], TOKENS[~DRAWN])
    assert not np.array_equal(out, TOKENS)


def test_sampled_tokens_do_not_depend_on_the_tokens_they_replace():
    key, sampling = jax.random.key(7), Sampling(jnp.float32(0.8))
    other = np.where(DRAWN, (TOKENS + 3) % VOCAB, TOKENS)
    np.testing.assert_array_equal(decode(TOKENS, DRAWN, key, sampling), decode(other, DRAWN, key, sampling))


def test_one_program_serves_regions_of_all_sizes():
    sampling = Sampling(jnp.float32(1.0))
    for drawn in (DRAWN, ~DRAWN, np.zeros_like(DRAWN)):
        decode(TOKENS, drawn, jax.random.key(0), sampling)
    assert decode._cache_size() == 1


def test_the_end_token_fills_the_rest_and_the_loop_stops_when_all_samples_ended():
    drawn = np.tile(np.arange(LENGTH) > 0, (3, 1)).astype(int)
    key = jax.random.key(1)
    steps = []

    def run(bias):
        def biased(token, place, cache):
            jax.debug.callback(lambda place: steps.append(place), place)
            logits, cache = next_logits(token, place, cache)
            return logits + bias, cache

        cache = jnp.zeros(3)
        return autoregressive_decode(
            biased, cache, TOKENS[:3], drawn, key, sampling=Sampling(0.8), end_id=END
        )

    run = jax.jit(run)
    out = np.array(run(np.zeros(VOCAB, np.float32)))
    np.testing.assert_array_equal(out, by_hand(TOKENS[:3], drawn, key, 0.8, END))
    ends = (out[:, 1:] == END).argmax(axis=1)
    assert (out[:, 1:] == END).any()
    for row, end in zip(out[:, 1:], ends, strict=True):
        assert not (row == END).any() or set(row[end:]) == {END}
    steps.clear()
    out = np.array(run(np.where(np.arange(VOCAB) == END, 100, 0).astype(np.float32)))
    jax.effects_barrier()
    assert len(steps) == 1 and set(out[:, 1:].ravel()) == {END}


def test_a_long_region_is_sampled_from_left_to_right():
    """Each sampled token is the previous one plus one."""
    length = 48
    drawn = (np.arange(length) % 5 > 0)[None]
    tokens = np.arange(length)[None] // 5
    expected = [0]
    for place in range(1, length):
        expected.append((expected[-1] + 1) % VOCAB if drawn[0, place] else tokens[0, place])

    def plus_one(token, place, cache):
        return jax.nn.one_hot((token + 1) % VOCAB, VOCAB), cache

    out = autoregressive_decode(
        plus_one, (), tokens % VOCAB, drawn, jax.random.key(0), sampling=Sampling(0.0)
    )
    np.testing.assert_array_equal(out[0], np.array(expected) % VOCAB)


def test_reports_count_the_remaining_tokens_of_the_region():
    heard = []
    # Of the first sample tokens 2, 3 and 6 of 8: read are 1, 2, 3 and 5. The other ends after one step.
    drawn = DRAWN[[1, 3]]
    out = autoregressive_decode(
        next_logits,
        jnp.zeros(2),
        TOKENS[:2].astype(np.int16),
        drawn,
        jax.random.key(0),
        sampling=Sampling(),
        on_step=heard.append,
    )
    jax.effects_barrier()
    assert out.dtype == jnp.int32
    assert sorted(heard) == [DecodeStep("", t, 7, left) for t, left in ((1, 2), (2, 1), (3, 1), (4, 0))]


def test_sampling_fields_apply_the_filters_of_their_names():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=VOCAB).astype(np.float32))
    many = jnp.tile(logits, (500, 1))
    order = np.argsort(-np.array(logits))
    draw = lambda **fields: set(np.array(Sampling(**fields)(jax.random.key(0), many)))  # noqa: E731
    assert Sampling()(jax.random.key(0), many).dtype == jnp.int32
    assert draw(top_k=2) == set(order[:2])
    assert draw(top_p=1e-6) == draw(temperature=0.0) == {order[0]}
    assert draw(temperature=50.0) == set(range(VOCAB))


def test_sampling_by_cluster_takes_all_clusters_unless_told_how_many():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(300, VOCAB)).astype(np.float32))
    clusters, key = jnp.array([0, 1, 2, 0, 1, 2, 0]), jax.random.key(1)
    sampling = Sampling(0.7, clusters=clusters, num_clusters=3, inner_temperature=0.4)
    for top in (0, 1):
        expected = sample_by_cluster(
            key, logits / 0.7, clusters, num_clusters=3, top_clusters=top or 3, inner_temperature=0.4
        )
        drawn = jax.jit(Sampling.__call__)(sampling.replace(top_clusters=top), key, logits)
        np.testing.assert_array_equal(drawn, expected)


def test_clusters_of_another_codebook_are_refused():
    sampling = Sampling(clusters=jnp.zeros(5, jnp.int32), num_clusters=1)
    with pytest.raises(ValueError, match="a codebook with 5 codes, but 7 can be sampled here"):
        sampling(jax.random.key(0), jnp.zeros((2, VOCAB)))


def test_a_region_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"one shape \(batch, n\), given \(5, 8\) and \(5, 7\)"):
        autoregressive_decode(next_logits, None, TOKENS, DRAWN[:, 1:], jax.random.key(0), sampling=Sampling())
