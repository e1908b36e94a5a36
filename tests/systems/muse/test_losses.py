"""The loss of the masked transformers on explicit tokens, masks and texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.system import make_task
from muse_jax.systems.muse import tasks as masked
from muse_jax.training import validate_config
from tests.systems.muse.test_tasks import base_config, superres_config
from tests.systems.probing import cross_entropy, norm, random_params, recorded, train_on

CODES, PLACES, TEXT = 16, 16, 24
RNG = np.random.default_rng(0)
TOKENS, OTHER_TOKENS = RNG.integers(0, CODES, (2, 8, PLACES))
MASKED = RNG.random((8, PLACES)) < RNG.random((8, 1))
MASKED[0] = True
STATES = RNG.normal(size=(8, TEXT, 384)).astype(np.float16)
TEXT_MASK = np.arange(TEXT) < RNG.integers(1, TEXT, (8, 1))
NULL = {
    "null_text": RNG.normal(size=(1, TEXT, 384)).astype(np.float32),
    "null_mask": np.arange(TEXT)[None] < 2,
}
KEY = jax.random.key(1)
# In training a batch draws its masks at once, in evaluation each image its own: here all the same one.
MASKS = {"loss": MASKED, "evaluate": np.tile(MASKED[3], (8, 1))}


def batch(name, tokens=TOKENS, low=OTHER_TOKENS):
    text = {"text_states": STATES, "text_mask": TEXT_MASK}
    if name == "base":
        return {"tokens": tokens, **text}
    return {"tokens": low[:, :4], "superres_tokens": tokens, **text}


def make(name, image_folder, tokenizer, **loss):
    config = (base_config if name == "base" else superres_config)(image_folder, tokenizer)
    config.loss = loss
    return make_task(validate_config(config))


@pytest.fixture(scope="module", params=["base", "superres"])
def probed(request, image_folder, tokenizer):
    """The task, weights, and its loss and evaluation with the calls of the network, under `MASKED`."""
    task = make(request.param, image_folder, tokenizer, label_smoothing=0.1, text_dropout=0.5)
    params = random_params(task.init)
    patch = pytest.MonkeyPatch()
    masks = {8: MASKED, 1: MASKED[3:4]}
    patch.setattr(masked, "sample_mask", lambda key, batch, n: jnp.asarray(masks[batch]).reshape(batch, n))
    loss = recorded(task.network, lambda batch: task.loss(params, NULL, batch, KEY, 0))
    evaluate = recorded(
        task.network, lambda batch: task.evaluate(params, NULL, batch, jax.random.split(KEY, 8))
    )
    yield request.param, task, params, {"loss": loss, "evaluate": evaluate}
    patch.undo()


@pytest.mark.parametrize("method", ["loss", "evaluate"])
def test_the_network_sees_unmasked_tokens_and_the_mask_token_elsewhere(probed, method):
    name, _, _, methods = probed
    _, [(arguments, _)] = methods[method](batch(name))
    for b in range(8):
        for place in range(PLACES):
            expected = CODES if MASKS[method][b, place] else TOKENS[b, place]
            assert arguments[0][b, place] == expected
    *low, _, _ = arguments[1:]
    assert [np.array_equal(grid, OTHER_TOKENS[:, :4]) for grid in low] == [True] * (name == "superres")


@pytest.mark.parametrize("method", ["loss", "evaluate"])
def test_the_network_reads_the_text_or_in_training_the_empty_text_in_its_place(probed, method):
    name, _, _, methods = probed
    _, [(arguments, _)] = methods[method](batch(name))
    *_, states, text_mask = jax.device_get(arguments)
    dropped = 0
    for b in range(8):
        null = np.array_equal(states[b], NULL["null_text"][0])
        dropped += null
        np.testing.assert_array_equal(states[b], NULL["null_text"][0] if null else STATES[b])
        np.testing.assert_array_equal(text_mask[b], NULL["null_mask"][0] if null else TEXT_MASK[b])
    assert 0 < dropped < 8 if method == "loss" else dropped == 0


@pytest.mark.parametrize("method", ["loss", "evaluate"])
def test_a_true_token_under_the_mask_moves_no_input_and_no_logit(probed, method):
    name, _, _, methods = probed
    mask = MASKS[method]
    hidden, shown = np.where(mask, OTHER_TOKENS, TOKENS), np.where(mask, TOKENS, OTHER_TOKENS)
    result, [(arguments, logits)] = methods[method](batch(name))
    changed, [(same_arguments, same_logits)] = methods[method](batch(name, hidden))
    jax.tree.map(np.testing.assert_array_equal, arguments, same_arguments)
    np.testing.assert_array_equal(logits, same_logits)
    assert norm(jax.tree.map(np.subtract, result, changed)) > 0.01  # the targets do matter to the loss
    _, [(_, other_logits)] = methods[method](batch(name, shown))
    assert np.abs(other_logits - logits)[1:].max() > 0.01


@pytest.mark.parametrize("method", ["loss", "evaluate"])
def test_the_loss_and_its_scores_are_those_of_the_network_s_logits_by_a_loop(probed, method):
    name, task, params, methods = probed
    result, [(arguments, _)] = methods[method](batch(name))
    given = () if name == "base" else (OTHER_TOKENS[:, :4],)
    inputs = (np.where(MASKS[method], CODES, TOKENS), *given, *arguments[-2:])
    logits = np.asarray(jax.jit(lambda *inputs: task.network.apply({"params": params}, *inputs))(*inputs))
    plain, smooth, right = ([[] for _ in range(8)] for _ in range(3))
    for b, place in zip(*np.nonzero(MASKS[method]), strict=True):
        row, label = logits[b, place], TOKENS[b, place]
        losses = [cross_entropy(row, code) for code in range(CODES)]
        plain[b].append(losses[label])
        smooth[b].append(0.9 * losses[label] + 0.1 * np.mean(losses))
        right[b].append(np.argmax(row) == label)
    if method == "evaluate":  # of each image the sum and over how many tokens it is
        for name, terms in (("cross_entropy", plain), ("accuracy", right)):
            np.testing.assert_allclose(result[name][0], [sum(each) for each in terms], rtol=1e-4)
            np.testing.assert_array_equal(result[name][1], [len(each) for each in terms])
        return
    loss, scores = result
    plain, smooth, right = (sum(terms, []) for terms in (plain, smooth, right))
    np.testing.assert_allclose(loss, np.mean(smooth), rtol=1e-4)
    np.testing.assert_allclose(scores["cross_entropy"], np.mean(plain), rtol=1e-4)
    np.testing.assert_allclose(scores["accuracy"], np.mean(right), rtol=1e-5)
    assert scores["weight"] == MASKED.sum()


def test_training_drops_what_the_step_s_key_says_and_evaluation_nothing(image_folder, tokenizer, monkeypatch):
    monkeypatch.setattr(masked, "sample_mask", lambda key, batch, n: jnp.asarray(MASKED).reshape(batch, n))
    config = base_config(image_folder, tokenizer)
    config.model = {**config.model, "dropout": 0.5}
    config.loss = {"text_dropout": 0.0}
    task = make_task(validate_config(config))
    params = random_params(task.init)
    loss = jax.jit(lambda key: task.loss(params, NULL, batch("base"), key, 0)[0])
    assert loss(KEY) == loss(KEY) != loss(jax.random.key(2))


@pytest.mark.parametrize("name", ["base", pytest.param("superres", marks=pytest.mark.slow)])
def test_a_short_run_learns_eight_examples_by_heart(image_folder, tokenizer, name):
    """Random tokens, so that only the caption can tell what is masked."""
    task = make(name, image_folder, tokenizer, label_smoothing=0.0, text_dropout=0.0)
    losses = train_on(task, NULL, batch(name), steps=400)["loss"]
    assert losses[:10].mean() > 2.5  # log(16) = 2.77
    assert losses[-50:].mean() < 0.3
