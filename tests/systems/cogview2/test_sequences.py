"""CogLM's samples against tables written out token by token from the paper's rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.nn.rank_attention import visible
from muse_jax.systems.cogview2.sequences import (
    Vocabulary,
    draw_patches,
    draw_spans,
    image_to_text,
    select,
    text_only,
    text_to_image,
)

VOCABULARY = Vocabulary(image_codes=20, size=33)  # 10 pieces
GRID, TEXT = (3, 4), 5
IMAGE = GRID[0] * GRID[1]
SLOTS, START = TEXT + 1, TEXT + 1  # text slots; the slot of <start_of_image>
RNG = np.random.default_rng(0)
LENGTHS = [5, 2, 0]
WORDS = RNG.integers(0, 10, (3, TEXT))
MASK = np.arange(TEXT) < np.array(LENGTHS)[:, None]
CODES = RNG.integers(0, 20, (3, IMAGE))
REGION = RNG.random((3, IMAGE)) < 0.4
REGION[0, 0] = True  # a run that begins with the first token


def table(absent, context, causal, extra=()):
    """Who sees whom, by the rule: context sees context, a region sees all context and itself causally."""
    length = SLOTS + 1 + IMAGE
    seen = np.zeros((length, length), bool)
    for query in range(length):
        for key in range(length):
            if query in absent or key in absent:
                continue
            if query in context:
                seen[query, key] = key in context
            else:
                seen[query, key] = key in context or causal.index(key) <= causal.index(query)
    for query, key in extra:
        seen[query, key] = False
    return seen


def check(sequence, tables, rows):
    """`rows[b]` are the queries that count: those that are there."""
    assert sequence.loss.dtype == bool
    for leaf in jax.tree.leaves(sequence):
        assert leaf.shape == (3, SLOTS + 1 + IMAGE)
    seen = np.array(visible(sequence.ranks, sequence.ranks))
    for got, expected, there in zip(seen, tables, rows, strict=True):
        np.testing.assert_array_equal(got[there], expected[there])


def test_the_vocabulary_is_image_codes_then_pieces_then_special_tokens():
    assert VOCABULARY.text_pieces == 10
    assert (VOCABULARY.pad, VOCABULARY.start_of_image, VOCABULARY.start_of_text) == (30, 31, 32)


def test_text_to_image_sees_all_the_text_and_the_image_before():
    sequence = text_to_image(VOCABULARY, WORDS, MASK, CODES)
    tables, rows = [], []
    for length in LENGTHS:
        absent, text = list(range(length, SLOTS)), list(range(length))
        image = list(range(START, START + 1 + IMAGE))
        tables.append(table(absent, text, image))
        rows.append(text + image)
    check(sequence, tables, rows)
    expected_loss = np.zeros(sequence.loss.shape, bool)
    expected_loss[:, START:-1] = True  # <start_of_image> and all but the last image token
    np.testing.assert_array_equal(sequence.loss, expected_loss)
    np.testing.assert_array_equal(np.array(sequence.labels)[:, START:-1], CODES)
    np.testing.assert_array_equal(np.array(sequence.tokens)[0, :TEXT], WORDS[0] + 20)
    np.testing.assert_array_equal(np.array(sequence.tokens)[:, START + 1 :], CODES)
    assert set(np.array(sequence.tokens)[:, START]) == {VOCABULARY.start_of_image}
    for leaf in (sequence.tokens, sequence.ranks, sequence.labels):
        assert leaf.dtype == jnp.int32
    assert set(np.array(sequence.tokens)[2, :SLOTS]) == {VOCABULARY.pad}


def test_a_region_comes_last_and_each_run_of_it_starts_with_the_token_to_its_left():
    sequence = text_to_image(VOCABULARY, WORDS, MASK, CODES, REGION)
    tables, rows = [], []
    for length, region in zip(LENGTHS, REGION, strict=True):
        text = list(range(length))
        drawn = [START + 1 + place for place in range(IMAGE) if region[place]]
        causal = sorted({*drawn, *(slot - 1 for slot in drawn)})
        known = [slot for slot in range(START, START + 1 + IMAGE) if slot not in causal]
        # The text is read as it is without an image.
        extra = [(query, key) for query in text for key in known]
        tables.append(table(list(range(length, SLOTS)), text + known, causal, extra))
        rows.append(text + known + causal)
    check(sequence, tables, rows)
    for loss, labels, region, codes in zip(sequence.loss, sequence.labels, REGION, CODES, strict=True):
        assert np.flatnonzero(loss).tolist() == (START + np.flatnonzero(region)).tolist()
        np.testing.assert_array_equal(np.array(labels)[np.array(loss)], codes[region])


def test_image_to_text_is_causal_in_the_text_and_in_the_patches():
    sequence = image_to_text(VOCABULARY, WORDS, MASK, CODES, REGION, REGION & np.roll(REGION, -1, 1))
    tables, rows = [], []
    for length, region in zip(LENGTHS, REGION, strict=True):
        text = list(range(length + 1))  # <start_of_text> too
        inside = [START + 1 + place for place in range(IMAGE) if region[place]]
        outside = [START + 1 + place for place in range(IMAGE) if not region[place]]
        absent = [*range(length + 1, SLOTS), START]
        tables.append(table(absent, outside, inside + text))
        rows.append(text + inside + outside)
    check(sequence, tables, rows)
    for b, length in enumerate(LENGTHS):
        loss, labels = np.array(sequence.loss[b]), np.array(sequence.labels[b])
        assert loss[:SLOTS].tolist() == [slot <= length for slot in range(SLOTS)]
        assert labels[: length + 1].tolist() == [*(WORDS[b, :length] + 20), VOCABULARY.pad]
        assert sequence.tokens[b, 0] == VOCABULARY.start_of_text
        image_loss = REGION[b] & np.roll(REGION[b], -1)
        assert loss[SLOTS:].tolist() == [False, *image_loss]


def test_text_alone_sees_its_context_and_spans_causally():
    inside = np.array([[1, 1, 0, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    loss = np.array([[1, 0, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    sequence = text_only(VOCABULARY, WORDS, MASK, IMAGE, inside, loss)
    tables, rows = [], []
    for length, region in zip(LENGTHS, inside, strict=True):
        text = list(range(length))
        causal = [slot for slot in text if region[slot]]
        absent = [slot for slot in range(SLOTS + 1 + IMAGE) if slot >= length]
        tables.append(table(absent, [slot for slot in text if slot not in causal], causal))
        rows.append(text)
    check(sequence, tables, rows)
    assert np.argwhere(sequence.loss).tolist() == [[0, 0], [0, 3], [1, 0]]
    np.testing.assert_array_equal(sequence.labels[0, [0, 3]], WORDS[0, [1, 4]] + 20)
    for tokens, length in zip(np.array(sequence.tokens), LENGTHS, strict=True):
        assert set(tokens[[*range(length, SLOTS), *range(START + 1, START + 1 + IMAGE)]]) == {VOCABULARY.pad}


def test_select_takes_each_sample_from_the_kind_that_is_drawn_for_it():
    kinds = (
        text_to_image(VOCABULARY, WORDS, MASK, CODES),
        image_to_text(VOCABULARY, WORDS, MASK, CODES),
    )
    chosen = select(jnp.array([1, 0, 1]), kinds)
    assert chosen.loss.dtype == bool
    for b, kind in enumerate([1, 0, 1]):
        np.testing.assert_array_equal(chosen.ranks[b], kinds[kind].ranks[b])
        np.testing.assert_array_equal(chosen.labels[b], kinds[kind].labels[b])


def test_patches_are_squares_whose_last_column_predicts_nothing():
    region, loss = draw_patches(jax.random.key(0), 64, (6, 7), 3, 0.25)  # one patch: 10.5 tokens
    seen = set()
    for inside, predicts in zip(
        np.array(region).reshape(64, 6, 7), np.array(loss).reshape(64, 6, 7), strict=True
    ):
        top, left = np.argwhere(inside).min(axis=0)
        square = np.zeros((6, 7), bool)
        square[top : top + 3, left : left + 3] = True
        np.testing.assert_array_equal(inside, square)
        square[:, left + 2] = False
        np.testing.assert_array_equal(predicts, square)
        seen.add((top, left))
    assert len(seen) > 10 and max(seen) == (3, 4)
    region, loss = draw_patches(jax.random.key(1), 2, (6, 7), 3, 0.8)  # three: they may overlap
    rows = np.array(region).reshape(2, 6, 7)
    assert np.all(~np.array(loss).reshape(2, 6, 7)[:, :, :-1] | rows[:, :, 1:])
    assert rows.sum() > 18
    region, loss = draw_patches(jax.random.key(2), 2, (6, 7), 3, 0.2)  # 8.4 tokens are less than one
    assert not np.any(region) and not np.any(loss)


@pytest.mark.parametrize("slots", [110, 12])
def test_spans_predict_at_most_their_share_and_never_touch(slots):
    lengths = np.random.default_rng(1).integers(0, slots + 1, 200)
    there = np.arange(slots) < lengths[:, None]
    region, loss = (np.array(a) for a in draw_spans(jax.random.key(0), there))
    assert not np.any(region & ~there)
    for length, inside, predicts in zip(lengths, region, loss, strict=True):
        assert predicts.sum() <= max(0.15 * length, 1)
        assert predicts.any() == (length > 1)
        after = np.flatnonzero(predicts) + 1  # what is predicted
        # A span is its predicted tokens and the given one before them.
        assert set(np.flatnonzero(inside)) == {*after, *np.flatnonzero(predicts)}
    if slots == 110:
        long = lengths > 60
        assert np.mean(loss[long].sum(axis=1) / lengths[long]) > 0.1
        # Runs of predictions are Poisson(3) long, but for those that no longer fit.
        before, after = (
            np.pad(loss, ((0, 0), pad))[:, cut] for pad, cut in (((1, 0), np.s_[:-1]), ((0, 1), np.s_[1:]))
        )
        runs = (loss & ~before)[long].sum()
        assert 2.2 < loss[long].sum() / runs < 3.3
        alone = (loss & ~before & ~after)[long].sum() / runs
        assert 0.15 < alone < 0.35  # exp(-3) (1 + 3) = 0.2, and a little more as they are the ones that fit


def test_spans_lie_anywhere_in_a_text():
    there = np.tile(np.arange(110) < 20, (400, 1))
    region, loss = (np.array(a) for a in draw_spans(jax.random.key(2), there))
    predicted = loss.sum(axis=0)[:19]  # of the next piece
    assert predicted.min() > 0.3 * predicted.mean() and predicted.max() < 1.6 * predicted.mean()
    assert not loss[:, 19:].any() and region[:, 0].any() and region[:, 19].any()
