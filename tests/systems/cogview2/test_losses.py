"""CogLM's loss against sequences, labels and places written out token by token from the paper's rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.system import make_task
from muse_jax.systems.cogview2 import tasks as coglm
from muse_jax.systems.cogview2.sequences import text_to_image
from muse_jax.training import validate_config
from tests.systems.cogview2.test_tasks import MODEL
from tests.systems.conftest import PIECES
from tests.systems.probing import cross_entropy, random_params, recorded, train_on

CODES, TEXT, IMAGE, BATCH = 16, 11, 16, 8
PAD, START_OF_IMAGE, START_OF_TEXT = CODES + PIECES, CODES + PIECES + 1, CODES + PIECES + 2
START = TEXT + 1  # slot of <start_of_image>; the text has TEXT + 1 slots
RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(1, TEXT + 1, BATCH)
IDS = RNG.integers(0, PIECES, (BATCH, TEXT))
MASK = np.arange(TEXT) < LENGTHS[:, None]
TOKENS = RNG.integers(0, CODES, (BATCH, IMAGE))
PATCH = np.zeros((4, 4), bool)  # a 2x2 square of the 4x4 image, whose left half predicts its right one
PATCH[1:3, 1:3] = True
PREDICTS = PATCH & (np.arange(4) < 2)
SPAN = np.array([[0, 1, 1, 1] + [0] * (TEXT - 4)] * BATCH, bool) & MASK  # the piece 1, and 2 and 3 after it
SPAN_PREDICTS = np.roll(SPAN, -1, axis=1) & SPAN & np.roll(MASK, -1, axis=1)
KEY = jax.random.key(1)
KINDS = {
    "text_to_image": {"image_to_text": 0.0},
    "image_to_text": {"image_to_text": 1.0},
    "text_only": {"text_only": 1.0},
}


def batch(tokens=TOKENS, ids=IDS):
    return {"tokens": tokens, "caption_ids": ids, "caption_mask": MASK}


def written_out(kind, b, patch=PATCH, predicts=PREDICTS):
    """Tokens and ranks of sample `b`, and its predictions as (slot, label)."""
    length = LENGTHS[b]
    words = [CODES + int(piece) for piece in IDS[b, :length]]
    image = [int(code) for code in TOKENS[b]]
    sequence, ranks, predictions = [PAD] * (START + 1 + IMAGE), [-1] * (START + 1 + IMAGE), []
    if kind == "text_only":
        for slot, word in enumerate(words):
            sequence[slot], ranks[slot] = word, 10 + slot if SPAN[b, slot] else 5
            if SPAN_PREDICTS[b, slot]:
                predictions.append((slot, words[slot + 1]))
        return sequence, ranks, predictions
    sequence[START:] = [START_OF_IMAGE, *image]
    if kind == "text_to_image":
        sequence[:length] = words
        for slot in range(length):
            ranks[slot] = 0
        for place in range(IMAGE + 1):
            ranks[START + place] = 100 + place
            if place < IMAGE:
                predictions.append((START + place, image[place]))
        return sequence, ranks, predictions
    sequence[: length + 1] = [START_OF_TEXT, *words]
    for place in range(IMAGE):
        ranks[START + 1 + place] = 100 + place if patch.flat[place] else 0
        if predicts.flat[place]:
            predictions.append((START + 1 + place, image[place + 1]))
    for slot in range(length + 1):
        ranks[slot] = 1000 + slot
        predictions.append((slot, [*words, PAD][slot]))
    return sequence, ranks, predictions


@pytest.fixture(scope="module")
def params(coglm_config):
    return random_params(make(coglm_config, "text_to_image").init)


def make(config, kind, **model):
    config = config.copy_and_resolve_references()
    config.model, config.loss = {**MODEL, **model}, {"patch": 2, **KINDS[kind]}
    return make_task(validate_config(config))


@pytest.fixture(scope="module", params=list(KINDS))
def probed(request, coglm_config, params):
    """The kind, its task, and the loss with the network's calls, patches and spans being the ones above."""
    task = make(coglm_config, request.param)
    patch = pytest.MonkeyPatch()
    square = lambda mask: jnp.asarray(np.tile(mask.reshape(-1), (BATCH, 1)))  # noqa: E731
    patch.setattr(coglm, "draw_patches", lambda *_: (square(PATCH), square(PREDICTS)))
    patch.setattr(coglm, "draw_spans", lambda *_: (jnp.asarray(SPAN), jnp.asarray(SPAN_PREDICTS)))
    loss = recorded(task.network, lambda batch: task.loss(params, {}, batch, KEY, 0))
    yield request.param, task, loss
    patch.undo()


@pytest.fixture(scope="module")
def logits(coglm_config, params):
    task = make(coglm_config, "text_to_image")
    return jax.jit(lambda tokens, ranks: task.network.apply({"params": params}, tokens, ranks))


def losses_by_hand(logits, *arguments):
    """Losses of image codes and of words, of each sample."""
    kind, *patches = arguments
    samples = [written_out(kind, b, *patches) for b in range(BATCH)]
    rows = logits(*(np.array([sample[i] for sample in samples]) for i in range(2)))
    image, text = [], []
    for row, (_, _, predictions) in zip(np.asarray(rows), samples, strict=True):
        image.append([cross_entropy(row[slot], label) for slot, label in predictions if label < CODES])
        text.append([cross_entropy(row[slot], label) for slot, label in predictions if label >= CODES])
    return image, text


def test_the_loss_is_of_the_labels_and_places_that_are_written_out(probed, logits):
    kind, _, loss = probed
    (value, scalars), _ = loss(batch())
    image, text = (sum(samples, []) for samples in losses_by_hand(logits, kind))
    np.testing.assert_allclose(value, np.mean(image + text), rtol=1e-4)
    np.testing.assert_allclose(scalars["image_cross_entropy"], np.mean(image) if image else 0, rtol=1e-4)
    np.testing.assert_allclose(scalars["text_cross_entropy"], np.mean(text) if text else 0, rtol=1e-4)
    assert scalars["weight"] == len(image) + len(text) > BATCH


def test_a_predicted_token_moves_no_place_that_has_not_predicted_it_yet(probed):
    kind, _, loss = probed
    _, [(_, before), _] = loss(batch())
    tokens, ids = TOKENS.copy(), IDS.copy()
    if kind == "text_to_image":
        tokens[:, 6] = (tokens[:, 6] + 1) % CODES
        moved = lambda slot: slot > START + 6  # noqa: E731
    elif kind == "image_to_text":
        tokens[:, 6] = (tokens[:, 6] + 1) % CODES  # the right end of the patch's first row
        # The rest of the patch, in raster order, and the text, which comes last.
        moved = lambda slot: slot in [START + 1 + place for place in (6, 9, 10)] or slot <= TEXT  # noqa: E731
    else:
        ids[:, 2] = (ids[:, 2] + 1) % PIECES
        moved = lambda slot: slot in (2, 3)  # noqa: E731
    _, [(_, after), _] = loss(batch(tokens, ids))
    for b in range(BATCH):
        _, ranks, _ = written_out(kind, b)
        changed = np.abs(after[b] - before[b]).max(axis=-1) > 1e-5
        there = [slot for slot in range(len(ranks)) if ranks[slot] >= 0]
        expected = [slot for slot in there if moved(slot) and (kind != "text_only" or LENGTHS[b] > 2)]
        assert [slot for slot in there if changed[slot]] == expected


def test_evaluation_is_of_each_image_s_codes_and_of_each_caption_s_pieces_with_the_whole_image_in_sight(
    coglm_config, params, logits
):
    task = make(coglm_config, "text_to_image")
    scores = jax.jit(lambda batch: task.evaluate(params, {}, batch, jax.random.split(KEY, BATCH)))(batch())
    image, _ = losses_by_hand(logits, "text_to_image")
    _, text = losses_by_hand(logits, "image_to_text", np.zeros(IMAGE, bool), np.zeros(IMAGE, bool))
    pieces = [sample[:-1] for sample in text]  # without the end
    for name, losses in (("image_cross_entropy", image), ("text_cross_entropy", pieces)):
        np.testing.assert_allclose(scores[name][0], [sum(sample) for sample in losses], rtol=1e-4)
        np.testing.assert_array_equal(scores[name][1], [len(sample) for sample in losses])


def test_dropout_draws_from_the_step_s_key(coglm_config, params, monkeypatch):
    task = make(coglm_config, "text_to_image", dropout=0.5)
    sequence = text_to_image(task.vocabulary, IDS, MASK, TOKENS)
    monkeypatch.setattr(task, "samples", lambda key, *inputs: sequence)
    loss = jax.jit(lambda key: task.loss(params, {}, batch(), key, 0)[0])
    assert loss(KEY) == loss(KEY) != loss(jax.random.key(2))


@pytest.mark.slow
def test_a_short_run_learns_eight_examples_by_heart(coglm_config):
    task = make(coglm_config, "text_to_image", width=32, mlp_dim=64)
    losses = train_on(task, {}, batch(), steps=300)["loss"]
    assert losses[:5].mean() > 3  # log(59) = 4.08
    assert losses[-20:].mean() < 0.3
