"""Evidence for captions against loops over splits and tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.nn.heads import LinearLogits, unembed
from muse_jax.sampling import caption_evidence

BATCH, N, VOCAB, WIDTH = 2, 5, 7, 3
MASK = VOCAB
RNG = np.random.default_rng(0)
PARAMS = {
    "codes": RNG.normal(size=(VOCAB + 1, WIDTH)).astype(np.float32),
    "table": RNG.normal(size=(VOCAB, WIDTH)).astype(np.float32),
    "bias": RNG.normal(size=VOCAB).astype(np.float32),
}
TOKENS = RNG.integers(0, VOCAB, (BATCH, N)).astype(np.int32)
COND = (RNG.normal(size=(BATCH, WIDTH)).astype(np.float32),)
UNCOND = (RNG.normal(size=(1, WIDTH)).astype(np.float32),)


def linear(params, tokens, text):
    """A network in which each token sees all tokens and the text."""
    codes = jnp.asarray(params["codes"])[tokens]
    hidden = jnp.tanh(codes + jnp.cumsum(codes, axis=1) + codes.sum(axis=1, keepdims=True) + text[:, None])
    return LinearLogits(hidden, jnp.asarray(params["table"]), jnp.asarray(params["bias"]))


def multiplied(params, tokens, text):
    return unembed(*linear(params, tokens, text))


def by_hand(key, pairs):
    log_softmax = lambda x: x - np.log(np.exp(x).sum())  # noqa: E731
    total = np.zeros(BATCH)
    for pair_key in jax.random.split(key, pairs):
        order = np.argsort(np.array(jax.random.uniform(pair_key, (N,))))
        for masked in (order[: N // 2], order[N // 2 :]):
            seen = TOKENS.copy()
            seen[:, masked] = MASK
            logits = [
                np.array(multiplied(PARAMS, seen, np.resize(text[0], COND[0].shape)))
                for text in (COND, UNCOND)
            ]
            for sample in range(BATCH):
                for place in masked:
                    given, without = (log_softmax(x[sample, place])[TOKENS[sample, place]] for x in logits)
                    total[sample] += given - without
    return total / (pairs * N)


@pytest.mark.parametrize("apply", [linear, multiplied])
def test_equals_loops_over_splits_and_tokens(apply):
    key = jax.random.key(3)
    found = caption_evidence(apply, PARAMS, TOKENS, COND, UNCOND, key, mask_id=MASK, num_pairs=2)
    np.testing.assert_allclose(found, by_hand(key, 2), rtol=1e-4, atol=1e-5)


def test_the_caption_of_an_image_has_more_evidence_than_another():
    def apply(params, tokens, text):
        return jnp.broadcast_to(4.0 * text[:, None], (*tokens.shape, VOCAB))

    texts = np.eye(VOCAB, dtype=np.float32)[:2]
    images = np.repeat([[0], [1]], N, axis=1)  # of the code that the text of the same row makes probable
    nothing = (np.zeros((1, VOCAB), np.float32),)
    rows = [
        caption_evidence(apply, {}, images, (texts[order],), nothing, jax.random.key(0), mask_id=MASK)
        for order in ([0, 1], [1, 0])
    ]
    expected = np.log(np.exp([4, 0]) / (np.exp(4) + VOCAB - 1)) + np.log(VOCAB)
    np.testing.assert_allclose(rows, np.repeat(expected[:, None], 2, axis=1), rtol=1e-5)
