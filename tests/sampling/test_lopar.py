import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.cogview2 import iterative_superres
from muse_jax.sampling.lopar import TABLE, lopar_decode, lopar_top_k, step_table, tile_steps
from muse_jax.sampling.params import LoparSampling

CODES, MASK, GRID = 50, 50, (7, 8)
TOP_K = (40, 40, 40, 20, 20, 10)  # the published ones
STEPS = tile_steps(step_table(3), GRID)


def logits_fn(tokens):
    """Some function of all tokens: of each one and its neighbours in a row."""
    state = jnp.sin(tokens + 3.0 * jnp.roll(tokens, 1, axis=1) + jnp.roll(tokens, -1, axis=1))
    return 4 * jnp.cos(state[..., None] * jnp.arange(1, CODES + 1))


def plain(tokens, key, temperature, editable=None):
    """LoPAR one token at a time, with the same noise."""
    tokens = np.array(tokens)
    editable = np.ones(tokens.shape, bool) if editable is None else editable
    for m in range(1, 7):
        masked = tokens.copy()
        for place in range(tokens.shape[1]):
            if TABLE[place // GRID[1] % 6][place % GRID[1] % 6] >= m:
                masked[editable[:, place], place] = MASK
        logits = np.array(logits_fn(jnp.asarray(masked)))
        shape = (*tokens.shape, max(TOP_K))  # for the codes in order, the most probable first
        noise = np.array(jax.random.gumbel(jax.random.fold_in(key, m), shape, jnp.float32))
        for b, place in zip(*np.nonzero(masked == MASK), strict=True):
            best = np.argsort(-logits[b, place], kind="stable")[: TOP_K[m - 1]]
            scores = logits[b, place, best] / np.float32(temperature) + noise[b, place, : len(best)]
            tokens[b, place] = best[np.argmax(scores)]
    return tokens


def test_lopar_equals_a_token_by_token_loop_in_six_passes():
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, CODES, (2, 56)))
    steps, passes = [], []

    def counted(tokens):
        jax.debug.callback(lambda: passes.append(1))
        return logits_fn(tokens)

    decode = jax.jit(
        lambda *args: lopar_decode(
            counted, *args[:2], steps=STEPS, mask_id=MASK, temperature=args[2], on_step=steps.append
        )
    )
    for seed, temperature in enumerate((0.7, 1.0, 1.3)):
        drawn = decode(tokens, jax.random.key(seed), temperature)
        np.testing.assert_array_equal(drawn, plain(tokens, jax.random.key(seed), temperature))
        kept = STEPS <= 0
        np.testing.assert_array_equal(drawn[:, kept], tokens[:, kept])
        assert (drawn != tokens)[:, ~kept].mean() > 0.7
    jax.effects_barrier()
    assert len(passes) == 3 * 6 and sorted(step.step for step in steps) == sorted([1, 2, 3, 4, 5, 6] * 3)
    left = {(m, 2 * int(np.sum(m < STEPS))) for m in range(1, 7)}  # of two samples
    assert {(step.step, step.masked) for step in steps} == left and {step.num_steps for step in steps} == {6}


def test_tokens_that_are_not_editable_condition_every_step():
    rng = np.random.default_rng(1)
    tokens, editable = rng.integers(0, CODES, (2, 56)), rng.random((2, 56)) < 0.3
    contexts = []

    def watched(tokens):
        jax.debug.callback(lambda tokens: contexts.append(np.array(tokens)), tokens)
        return logits_fn(tokens)

    key = jax.random.key(6)
    drawn = lopar_decode(
        watched, jnp.asarray(tokens), key, steps=STEPS, mask_id=MASK, editable=jnp.asarray(editable)
    )
    jax.effects_barrier()
    assert len(contexts) == 6
    for context in contexts:
        np.testing.assert_array_equal(context[~editable], tokens[~editable])
    np.testing.assert_array_equal(drawn, plain(tokens, key, 1.0, editable))
    assert (drawn != tokens)[editable & (STEPS > 0)].mean() > 0.7


def test_the_published_temperature_is_one():
    tokens, key = jnp.zeros((1, 56), jnp.int32), jax.random.key(5)
    drawn = lopar_decode(logits_fn, tokens, key, steps=STEPS, mask_id=MASK)
    np.testing.assert_array_equal(drawn, plain(tokens, key, 1.0))
    assert LoparSampling().temperature == iterative_superres.get_config().sampling.temperature == 1.0


def test_the_table_has_every_step_and_is_repeated_over_the_grid():
    tiled = STEPS.reshape(GRID)
    assert set(range(1, 7)) <= set(STEPS)
    np.testing.assert_array_equal(tiled[6], [*TABLE[0], *TABLE[0][:2]])
    assert tiled[1, 4] == -2 and tiled[5, 6] == TABLE[5][0]


@pytest.mark.parametrize("grid", [(7,), (3, 5), (2, 4, 3)])
def test_a_table_is_tiled_along_every_axis(grid):
    table = np.random.default_rng(0).integers(-1, 9, (2, 3, 2)[: len(grid)])
    steps = tile_steps(table, grid)
    for number, place in enumerate(np.ndindex(*grid)):
        assert steps[number] == table[tuple(np.array(place) % table.shape)]


@pytest.mark.parametrize("factor", [2, 4, 5])
def test_other_factors_follow_the_rule(factor):
    table = step_table(factor)
    assert table.shape == (2 * factor, 2 * factor)
    for r, row in enumerate(table):
        for c, turn in enumerate(row):
            if r % 2 == c % 2 == 1 or r == c == 0:
                assert turn == -1
            else:
                assert 0 <= turn <= 2 * factor and (turn - (r + c - 1)) in (0, -2 * factor)
    assert table.max() == 2 * factor
    assert 0.25 <= np.mean(table < 0) <= 10 / 36 + 0.05


def test_top_k_is_the_published_one_for_six_steps_and_decreases_likewise_for_others():
    assert lopar_top_k(6) == TOP_K
    assert lopar_top_k(4) == (40, 40, 20, 10)
    assert lopar_top_k(8) == (40, 40, 40, 40, 20, 20, 10, 10)


def test_a_step_with_one_code_is_greedy_and_fewer_codes_than_it_keeps_are_all_kept():
    tokens, key = jnp.zeros((1, 56), jnp.int16), jax.random.key(2)
    logits = jax.random.normal(key, (1, 56, 5))
    steps = np.where(np.arange(56) < 40, 2, 1)
    drawn = lopar_decode(lambda _: logits, tokens, key, steps=steps, mask_id=MASK, top_k=(99, 1))
    np.testing.assert_array_equal(drawn[:, :40], logits[:, :40].argmax(axis=-1))
    assert len(np.unique(drawn[:, 40:])) == 5 and drawn.dtype == jnp.int32


def test_top_k_is_optional_for_tables_with_other_numbers_of_steps():
    steps = tile_steps(step_table(2), GRID)
    tokens = jnp.zeros((1, 56), jnp.int32)
    drawn = lopar_decode(logits_fn, tokens, jax.random.key(0), steps=steps, mask_id=MASK)
    np.testing.assert_array_equal(drawn[:, steps <= 0], 0)


def test_steps_and_top_k_that_do_not_fit_are_refused():
    tokens, key = jnp.zeros((1, 56), jnp.int32), jax.random.key(0)
    with pytest.raises(ValueError, match=r"tokens have shape \(1, 56\), but there are steps for \(36,\)"):
        lopar_decode(logits_fn, tokens, key, steps=step_table(3).reshape(-1), mask_id=MASK)
    with pytest.raises(ValueError, match="but the 6 steps of the table need one size"):
        lopar_decode(logits_fn, tokens, key, steps=STEPS, mask_id=MASK, top_k=(4, 4))
    with pytest.raises(ValueError, match="need one size of 1 or more each"):
        lopar_decode(logits_fn, tokens, key, steps=STEPS, mask_id=MASK, top_k=(4, 4, 4, 4, 4, 0))
    with pytest.raises(ValueError, match="factor is 1, but super-resolution"):
        step_table(1)
    with pytest.raises(ValueError, match=r"A step table of 2 axes cannot be tiled over the grid \(2, 4, 4\)"):
        tile_steps(step_table(2), (2, 4, 4))
