"""CogLM's decoders against the network's full pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from muse_jax.sampling.autoregressive import Sampling
from muse_jax.systems.cogview2.sampling import (
    BoundCogLM,
    caption_cross_entropy,
    check_vocabulary,
    sample_caption,
    sample_image_tokens,
)
from muse_jax.systems.cogview2.sequences import Vocabulary, image_to_text, text_to_image
from tests.systems.cogview2.coglm_tiny import NETWORK, VOCABULARY, batch, params

TEXT, MASK, IMAGE = batch()
CODES = VOCABULARY.image_codes
GREEDY = Sampling(jnp.float32(0.0))


@jax.jit
def logits(tokens, ranks, weight):
    hidden = NETWORK.apply({"params": params()}, tokens, ranks, weight, method="hidden")
    return NETWORK.apply({"params": params()}, hidden, method="logits")


@jax.jit
def draw(text, text_mask, key, sampling, weight, image, region):
    return sample_image_tokens(
        BoundCogLM(NETWORK, params(), VOCABULARY),
        text,
        text_mask,
        key,
        sampling=sampling,
        text_weight=weight,
        image=image,
        region=region,
    )


def weights(weight):
    slots = np.arange(NETWORK.length)
    return np.tile(np.where(slots < NETWORK.text_length, weight, 0.0), (4, 1)).astype(np.float32)


REGION = np.array([[1] * 9, [1, 1, 0, 0, 0, 1, 0, 0, 1], [0, 0, 0, 1, 0, 0, 0, 0, 0], [0] * 9], bool)


def test_greedy_drawing_takes_the_full_pass_s_best_code_and_leaves_the_rest_of_an_image():
    out = np.array(draw(TEXT, MASK, jax.random.key(0), GREEDY, 1.3, IMAGE, REGION))
    np.testing.assert_array_equal(out[~REGION], IMAGE[~REGION])
    sequence = text_to_image(VOCABULARY, TEXT, MASK, out, REGION)
    best = np.array(logits(sequence.tokens, sequence.ranks, weights(1.3)))[..., :CODES].argmax(axis=-1)
    np.testing.assert_array_equal(best[:, NETWORK.text_length : -1][REGION], out[REGION])
    assert len(set(out[REGION])) > 3


def test_a_new_image_is_drawn_whole_whatever_was_there():
    sampling, key, heard = Sampling(jnp.float32(1.0)), jax.random.key(3), []
    model = BoundCogLM(NETWORK, params(), VOCABULARY)
    options = {"sampling": sampling, "text_weight": 0.5, "on_step": heard.append}
    new = jax.jit(functools.partial(sample_image_tokens, model, **options))(TEXT, MASK, key)
    assert new.dtype == jnp.int32
    np.testing.assert_array_equal(new, draw(TEXT, MASK, key, sampling, 0.5, IMAGE, np.ones_like(REGION)))
    jax.effects_barrier()
    assert sorted(step.step for step in heard) == list(range(1, 10))


def test_drawing_is_repeatable_and_one_program_serves_prompts_of_every_length():
    key, sampling = jax.random.key(3), Sampling(jnp.float32(1.0))
    first = draw(TEXT, MASK, key, sampling, 0.5, IMAGE, REGION)
    np.testing.assert_array_equal(first, draw(TEXT, MASK, key, sampling, 0.5, IMAGE, REGION))
    draw(TEXT, np.ones_like(MASK), key, sampling, 0.7, IMAGE, ~REGION)
    assert draw._cache_size() == 1
    assert np.any(first != draw(TEXT, MASK, jax.random.key(4), sampling, 0.5, IMAGE, REGION))


def test_a_greedy_caption_is_the_full_pass_s_until_it_ends():
    model, heard = BoundCogLM(NETWORK, params(), VOCABULARY), []
    run = jax.jit(functools.partial(sample_caption, model, on_step=heard.append))
    pieces, there = (np.array(a) for a in run(IMAGE, jax.random.key(0), sampling=GREEDY))
    assert not pieces[~there].any()
    sequence = image_to_text(VOCABULARY, pieces, there, IMAGE)
    scores = np.array(logits(sequence.tokens, sequence.ranks, weights(0.0)))[:, :, CODES : CODES + 11]
    best = scores.argmax(axis=-1)
    for b in range(4):
        length = there[b].sum()
        assert there[b].tolist() == [slot < length for slot in range(4)]
        assert best[b, :length].tolist() == pieces[b, :length].tolist()
        assert length == 4 or best[b, length] == 10  # pad ends it
    assert len({tuple(row) for row in pieces}) > 1
    jax.effects_barrier()
    assert heard
    with pytest.raises(ValueError, match=r"image has shape \(4, 8\)"):
        run(IMAGE[:, 1:], jax.random.key(0), sampling=GREEDY)
    for key in jax.random.split(jax.random.key(1), 16):  # nearly evenly drawn: of the text pieces alone
        pieces, _ = run(IMAGE, key, sampling=Sampling(jnp.float32(100.0)))
        assert pieces.min() >= 0 and pieces.max() < VOCABULARY.text_pieces


def test_the_score_of_a_caption_is_the_mean_cross_entropy_of_its_pieces():
    score = jax.jit(functools.partial(caption_cross_entropy, BoundCogLM(NETWORK, params(), VOCABULARY)))
    got = score(TEXT, MASK, IMAGE)
    sequence = image_to_text(VOCABULARY, TEXT, MASK, IMAGE)
    log_probs = special.log_softmax(
        np.array(logits(sequence.tokens, sequence.ranks, weights(0.0)), np.float64), axis=-1
    )
    for b in range(4):
        labels = TEXT[b, MASK[b]] + CODES
        log_likelihood = sum(log_probs[b, slot, label] for slot, label in enumerate(labels))
        expected = -log_likelihood / max(1, len(labels))  # 0 without a caption
        np.testing.assert_allclose(got[b], expected, rtol=1e-4)
    with pytest.raises(ValueError, match=r"image has shape \(4, 8\)"):
        score(TEXT, MASK, IMAGE[:, 1:])
    # Of a pair the score is what it is beside any others.
    np.testing.assert_allclose(score(TEXT[::-1], MASK[::-1], IMAGE[::-1])[::-1], got, rtol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"region": REGION[:, :-1]},
            r"region has shape \(4, 8\), but 4 texts and the grid 3x3 need \(4, 9\)",
        ),
        ({"image": IMAGE[:, :-1]}, r"image has shape \(4, 8\)"),
        ({"text": TEXT[:, :-1]}, r"the network reads \(batch, 4\) pieces"),
        ({"region": None}, "Give both an image and the region to sample"),
        ({"image": None}, "Give both an image and the region to sample"),
        ({"vocabulary": Vocabulary(20, 40)}, "vocab_size is 33, but the vocabulary has 40 tokens"),
    ],
)
def test_bad_input_is_one_sentence(change, message):
    given = {
        "vocabulary": VOCABULARY,
        "text": TEXT,
        "text_mask": MASK,
        "image": IMAGE,
        "region": REGION,
    } | change
    model = BoundCogLM(NETWORK, params(), given.pop("vocabulary"))
    words = [given.pop(name) for name in ("text", "text_mask")]
    with pytest.raises(ValueError, match=message):
        sample_image_tokens(model, *words, jax.random.key(0), sampling=GREEDY, text_weight=0.0, **given)


def test_a_vocabulary_needs_room_for_one_text_piece():
    check_vocabulary(NETWORK.clone(vocab_size=24), Vocabulary(20, 24))  # one piece, three special tokens
    with pytest.raises(ValueError, match="leave room for text pieces"):
        check_vocabulary(NETWORK.clone(vocab_size=23), Vocabulary(20, 23))
