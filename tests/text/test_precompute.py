"""States of a data set against one-by-one encoding, on a small randomly initialized T5."""

import jax
import numpy as np
import pytest

from muse_jax.nn.shapes import abstract_params
from muse_jax.text import T5Config, T5Encoder, TextEncoder, encode_captions
from muse_jax.text.text_tokenizers import fit_to_length

CAPTIONS = ["cat", "dog", "cat", "a bird", "", "dog", "tree"]


@pytest.fixture(scope="module")
def encoder():
    module = T5Encoder(T5Config(width=16, mlp_dim=24, depth=2, heads=2, head_dim=8, vocab_size=300))

    def letters(texts, max_length):
        return fit_to_length(
            texts, [[2 + ord(letter) for letter in text] + [1] for text in texts], max_length, 0
        )

    rng = np.random.default_rng(0)
    shapes = abstract_params(module, *letters(["x"], 8))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 3, shapes)
    return TextEncoder("letters", 16, 8, params, module, letters)


def test_equals_encoding_one_by_one(encoder):
    calls = []
    states, mask = encode_captions(encoder, CAPTIONS, batch_size=2, progress=lambda *done: calls.append(done))
    assert states.dtype == np.float16 and states.shape == (7, 8, 16) and mask.shape == (7, 8)
    assert calls == [(2, 5), (4, 5), (5, 5)]  # five distinct captions
    single = jax.jit(encoder.apply)
    for row, caption in enumerate(CAPTIONS):
        ids, expected_mask = encoder.tokenize([caption])
        expected = np.asarray(single(encoder.params, ids, expected_mask))[0]
        np.testing.assert_array_equal(mask[row], expected_mask[0])
        np.testing.assert_allclose(states[row][mask[row]], expected[mask[row]], atol=3e-3)
        assert not states[row][~mask[row]].any()


def test_no_captions_give_no_states(encoder):
    states, mask = encode_captions(encoder, [])
    assert states.shape == (0, 8, 16) and mask.shape == (0, 8)


def test_states_that_overflow_float16_are_refused(encoder):
    large = jax.tree.map(lambda leaf: leaf, encoder.params)
    large["final_norm"] = {"scale": large["final_norm"]["scale"] * 1e6}
    spoiled = TextEncoder("large", 16, 8, large, encoder.module, encoder.tokenizer)
    with pytest.raises(ValueError, match="float16"):
        encode_captions(spoiled, ["cat"])


def test_a_batch_size_of_zero_is_refused(encoder):
    with pytest.raises(ValueError, match="batch size is 0"):
        encode_captions(encoder, ["cat"], batch_size=0)
