"""The losses of CogView2's super-resolution networks on explicit tokens, masks and places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.sampling.lopar import step_table
from muse_jax.system import make_task
from muse_jax.systems.cogview2.superres import join_params, split_params
from tests.systems.cogview2.test_superres_tasks import COGLM, superres_config
from tests.systems.conftest import PIECES
from tests.systems.probing import cross_entropy, random_params, recorded, train_on

CODES, BATCH = 16, 8
PAD, START_OF_IMAGE = CODES + PIECES, CODES + PIECES + 1
TEXT = {"direct": COGLM["text_length"] - 1, "iterative": COGLM["text_length"]}
RNG = np.random.default_rng(0)
COARSE = RNG.integers(0, CODES, (BATCH, 16))
FINE, OTHER_FINE = RNG.integers(0, CODES, (2, BATCH, 64))
LENGTHS = RNG.integers(1, 8, BATCH)
KEY = jax.random.key(1)
TURNS = np.array([step_table(2)[row % 4][column % 4] for row in range(8) for column in range(8)])


def batch(name, fine=FINE, coarse=COARSE):
    ids = np.random.default_rng(1).integers(0, PIECES, (BATCH, TEXT[name]))
    mask = np.arange(TEXT[name]) < LENGTHS[:, None]
    return {"tokens": coarse, "superres_tokens": fine, "caption_ids": ids, "caption_mask": mask}


def words(name):
    """The caption in the vocabulary's numbers."""
    given = batch(name)
    return np.where(given["caption_mask"], CODES + given["caption_ids"], PAD)


def make(config, name, **model):
    config = config.copy_and_resolve_references()
    config.model = COGLM
    config = superres_config(config, "", name).copy_and_resolve_references().unlock()
    config.model.update(model)
    return make_task(config)


def frozen_coglm(task, name):
    return {"coglm": split_params(random_params(task._init, seed=2))[0]} if name == "direct" else {}


@pytest.fixture(scope="module", params=["direct", "iterative"])
def probed(request, coglm_config):
    name = request.param
    task = make(coglm_config, name)
    params, frozen = random_params(task.init), frozen_coglm(task, name)
    loss = recorded(task.network, lambda batch: task.loss(params, frozen, batch, KEY, 0))
    return name, task, (params, frozen), loss


def masks(name, hidden):
    """Which fine tokens count, by what the network sees; each sample's must be one of the turns' masks."""
    if name == "direct":
        return np.ones((BATCH, 64), bool)
    masked = np.asarray(hidden) == START_OF_IMAGE
    turns = [next(m for m in range(1, 5) if np.array_equal(m <= TURNS, row)) for row in masked]
    assert len(set(turns)) > 1
    return masked


def test_the_network_sees_the_text_and_coarse_tokens_or_the_fine_ones_whose_turn_it_is_not(probed):
    name, _, _, loss = probed
    _, [(arguments, _), _] = loss(batch(name))
    if name == "direct":
        start = np.full((BATCH, 1), START_OF_IMAGE)
        expected = np.concatenate([words(name), np.full((BATCH, 1), PAD), start, COARSE], axis=1)
        np.testing.assert_array_equal(arguments[0], expected)
        return
    masked = masks(name, arguments[0])
    np.testing.assert_array_equal(np.asarray(arguments[0])[~masked], FINE[~masked])
    np.testing.assert_array_equal(arguments[1], words(name))
    np.testing.assert_array_equal(arguments[2], batch(name)["caption_mask"])


def test_a_true_token_that_is_predicted_moves_no_input_and_no_hidden_state(probed):
    name, _, _, loss = probed
    value, [(arguments, hidden), _] = loss(batch(name))
    masked = masks(name, arguments[0])
    changed, [(same, same_hidden), _] = loss(batch(name, np.where(masked, OTHER_FINE, FINE)))
    jax.tree.map(np.testing.assert_array_equal, arguments, same)
    np.testing.assert_array_equal(hidden, same_hidden)
    assert abs(value[0] - changed[0]) > 0.01
    if name == "direct":
        _, [(_, other), _] = loss(batch(name, coarse=COARSE[::-1]))
    else:
        _, [(_, other), _] = loss(batch(name, np.where(masked, FINE, OTHER_FINE)))
    assert np.abs(hidden - other).max() > 0.01


def test_the_loss_is_the_mean_cross_entropy_of_the_predicted_tokens_by_a_loop(probed):
    name, task, (params, frozen), loss = probed
    value, [(arguments, _), _] = loss(batch(name))
    masked = masks(name, arguments[0])
    if name == "direct":
        slots = TEXT[name] + 2 + 16
        ranks = np.full((BATCH, slots), 1)  # the image, which sees the text
        for b, length in enumerate(LENGTHS):
            ranks[b, : TEXT[name] + 1] = [0] * length + [-1] * (TEXT[name] + 1 - length)
        inputs, params = (arguments[0], ranks), join_params(frozen["coglm"], params)
    else:
        hidden = np.where(masked, START_OF_IMAGE, FINE)
        inputs = (hidden, words(name), batch(name)["caption_mask"])
    logits = np.asarray(jax.jit(lambda *inputs: task.network.apply({"params": params}, *inputs))(*inputs))
    losses = [
        cross_entropy(logits[b, place], FINE[b, place]) for b, place in zip(*np.nonzero(masked), strict=True)
    ]
    np.testing.assert_allclose(value[0], np.mean(losses), rtol=1e-4)
    if name == "iterative":
        assert value[1]["weight"] == masked.sum()


def test_evaluation_masks_what_the_first_turn_does_and_what_the_last_one_does(coglm_config):
    task = make(coglm_config, "iterative")
    params = random_params(task.init)
    run = recorded(task.network, lambda batch: task.evaluate(params, {}, batch, KEY))
    scores, calls = run(batch("iterative"))
    named = zip(("first_iteration", "last_iteration"), (1, 4), calls[::2], calls[1::2], strict=True)
    for name, turn, (arguments, _), (_, losses) in named:
        masked = turn <= TURNS
        np.testing.assert_array_equal(arguments[0], np.where(masked, START_OF_IMAGE, FINE))
        sums, counts = scores[f"cross_entropy_{name}"]
        np.testing.assert_allclose(sums, losses[:, masked].sum(axis=1), rtol=1e-5)
        np.testing.assert_array_equal(counts, [masked.sum()] * BATCH)


@pytest.mark.parametrize("name", ["direct", "iterative"])
def test_dropout_draws_from_the_step_s_key_and_without_one_drops_nothing(coglm_config, name):
    task = make(coglm_config, name, dropout=0.5)
    params, frozen = random_params(task.init), frozen_coglm(task, name)
    turn = () if name == "direct" else (np.full(BATCH, 2),)
    losses = lambda key: task.losses(params, frozen, batch(name), *turn, key)  # noqa: E731
    draw = jax.jit(lambda key: jnp.sum(jax.tree.leaves(losses(key))[0]))
    assert draw(KEY) == draw(KEY) != draw(jax.random.key(2))
    jax.eval_shape(lambda: losses(None))  # Flax refuses to drop without a key


@pytest.mark.parametrize("name", ["direct", "iterative"])
def test_a_step_drops_by_its_key_and_refines_in_every_iteration(coglm_config, monkeypatch, name):
    task, calls = make(coglm_config, name), []

    def losses(params, frozen, batch, *rest):
        calls.append(rest)
        return jnp.zeros((400, 64)) if name == "direct" else (jnp.zeros((400, 64)), jnp.ones((400, 64), bool))

    monkeypatch.setattr(task, "losses", losses)
    task.loss({}, {}, {"caption_ids": np.zeros((400, 8))}, KEY, 0)
    [(*iteration, key)] = calls
    assert key is not None
    if name == "iterative":
        turns, counts = np.unique(iteration, return_counts=True)
        assert list(turns) == [1, 2, 3, 4] and counts.min() > 60


def test_a_direct_network_s_score_is_the_loss_of_each_image_s_fine_tokens(coglm_config):
    task = make(coglm_config, "direct")
    params, frozen = random_params(task.init), frozen_coglm(task, "direct")
    run = recorded(task.network, lambda batch: task.evaluate(params, frozen, batch, None))
    scores, [_, (_, losses)] = run(batch("direct"))
    np.testing.assert_allclose(scores["cross_entropy"][0], np.sum(losses, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(scores["cross_entropy"][1], [64] * BATCH)


def test_of_the_direct_network_its_own_weights_alone_are_trained(coglm_config):
    params = random_params(make(coglm_config, "direct").init)
    assert set(params) == {"fine_position_embedding", "transformer"}
    assert set(params["transformer"]) == {"layers"}
    assert set(params["transformer"]["layers"]) == {"fine_attention"}


@pytest.mark.slow
def test_a_short_run_learns_fine_tokens_that_the_coarse_ones_or_the_neighbours_tell(probed, coglm_config):
    """Every fine token is the coarse one of its place, and an image has one coarse token or the next."""
    name, *_ = probed
    task = make(coglm_config, name, width=32, heads=2, mlp_dim=64)
    coarse = (np.arange(BATCH)[:, None] + RNG.integers(0, 2, (BATCH, 16))) % CODES
    fine = coarse.reshape(BATCH, 4, 4).repeat(2, axis=1).repeat(2, axis=2).reshape(BATCH, 64)
    losses = train_on(task, frozen_coglm(task, name), batch(name, fine, coarse), steps=200)["loss"]
    assert losses[:5].mean() > 2.5  # log(59) = 4.08
    assert losses[-20:].mean() < 0.7
