"""Masked decoding against loops over Python lists with the same noise."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.nn.heads import LinearLogits, unembed
from muse_jax.sampling import mask_free_edit, masked_decode
from pallas_kernels.masked_sampling.gumbel import gumbel, seed_words
from tests.sampling.test_halton import halton_by_hand

VOCAB, GRID = 11, (4, 4)
N = GRID[0] * GRID[1]
MASK = VOCAB
SEEN: list = []  # (tokens, step fraction) of every call of the network inside the compiled loop
# Small enough for log-probabilities and choice noise to matter equally, so that an error in either shows.
TABLE = np.random.default_rng(0).normal(scale=0.3, size=(N, N, VOCAB + 1, VOCAB)).astype(np.float32)


def random_key(seed):
    """Key of a kind whose random bits compile several times faster on CPU than the default."""
    return jax.random.key(seed, impl="rbg")


def network(tokens, step_fraction):
    """Logits that depend on all tokens: sums of rows of a table."""
    rows = jnp.asarray(TABLE)[:, jnp.arange(N)[None, :], tokens]  # (position, batch, token, vocab)
    return jnp.moveaxis(rows.sum(axis=2), 0, 1) * (0.5 + step_fraction)


network_once = jax.jit(network)
gumbel_once = jax.jit(gumbel, static_argnums=(1, 2))


@functools.partial(jax.jit, static_argnames=("num_steps", "order", "roll"))
def decode(tokens, key, temperature, choice_temperature, num_steps, order, roll=False):
    def logits_fn(tokens, step_fraction):
        jax.debug.callback(lambda t, f: SEEN.append((np.array(t), float(f))), tokens, step_fraction)
        return network(tokens, step_fraction)

    return masked_decode(
        logits_fn,
        tokens,
        key,
        mask_id=MASK,
        num_steps=num_steps,
        temperature=temperature,
        choice_temperature=choice_temperature,
        order=order,
        grid=GRID,
        roll=roll,
    )


def start_tokens():
    """Samples with 16, 10, 3, 1 and 0 masked tokens."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, VOCAB, size=(5, N)).astype(np.int32)
    for sample, count in enumerate([16, 10, 3, 1, 0]):
        tokens[sample, rng.permutation(N)[:count]] = MASK
    return tokens


def floor(x):
    return math.floor(x + 1e-9)


def by_hand(tokens, key, temperature, choice_temperature, num_steps, order, roll=False):
    """The papers' algorithm, one token at a time; returns the tokens before every step and at the end."""
    tokens = tokens.copy()
    history = [tokens.copy()]
    batch = len(tokens)
    at_start = [[p for p in range(N) if tokens[b, p] == MASK] for b in range(batch)]
    offsets = [[0]] * batch
    if roll:
        offsets = np.array(jax.random.randint(jax.random.fold_in(key, num_steps), (batch, 1), 0, N))
    for t in range(num_steps):
        sample_key, choice_key = jax.random.split(jax.random.fold_in(key, t))
        sample_noise = np.array(gumbel_once(seed_words(sample_key), batch * N, VOCAB)).reshape(
            batch, N, VOCAB
        )
        choice_noise = np.array(jax.random.gumbel(choice_key, (batch, N)))
        logits = np.array(network_once(tokens, jnp.float32((t + 1) / num_steps)))
        for b in range(batch):
            masked = [p for p in range(N) if tokens[b, p] == MASK]
            scored = []
            for p in masked:
                scaled = [float(x) / temperature for x in logits[b, p]]
                code = max(range(VOCAB), key=lambda v: scaled[v] + sample_noise[b, p, v])
                log_prob = scaled[code] - math.log(sum(math.exp(x) for x in scaled))
                noise = choice_temperature * (1 - (t + 1) / num_steps) * choice_noise[b, p]
                scored.append((log_prob + noise, p))
                tokens[b, p] = code
            if t == num_steps - 1:
                continue
            if order == "confidence":
                count = floor(len(at_start[b]) * math.cos(math.pi / 2 * (t + 1) / num_steps))
                count = max(1, min(count, len(masked) - 1))
                for _, p in sorted(scored)[:count]:
                    tokens[b, p] = MASK
            else:
                halton = list(halton_by_hand(GRID))
                halton = halton[N - offsets[b][0] :] + halton[: N - offsets[b][0]]
                queue = [p for p in halton if p in at_start[b]]
                count = floor(len(queue) * (1 - math.acos((t + 1) / num_steps) / (math.pi / 2)))
                count = max(count, t + 1)
                for p in queue[count:]:
                    tokens[b, p] = MASK
        history.append(tokens.copy())
    return history


@pytest.mark.parametrize(
    "order, roll, num_steps, temperature, choice_temperature",
    [
        ("confidence", False, 1, 1.0, 4.5),
        ("confidence", False, 6, 0.7, 4.5),
        ("confidence", False, 6, 1.0, 1.0),
        ("confidence", False, 20, 1.3, 0.0),
        ("halton", False, 1, 1.0, 4.5),
        ("halton", False, 6, 0.7, 0.0),
        ("halton", True, 6, 1.0, 0.0),
        ("halton", False, 20, 1.3, 4.5),
    ],
)
def test_equals_brute_force(order, roll, num_steps, temperature, choice_temperature):
    tokens, key = start_tokens(), random_key(0)
    expected = by_hand(tokens, key, temperature, choice_temperature, num_steps, order, roll)
    SEEN.clear()
    drawn = np.array(decode(tokens, key, temperature, choice_temperature, num_steps, order, roll))
    jax.effects_barrier()

    np.testing.assert_array_equal(drawn, expected[-1])
    assert len(SEEN) == num_steps
    for t, (seen, fraction) in enumerate(SEEN):
        np.testing.assert_array_equal(seen, expected[t])
        assert fraction == pytest.approx((t + 1) / num_steps)

    known = tokens != MASK
    np.testing.assert_array_equal(drawn[known], tokens[known])
    assert drawn.dtype == np.int32 and drawn.min() >= 0 and drawn.max() < VOCAB


@pytest.mark.parametrize("order", ["confidence", "halton"])
def test_masked_counts_obey_the_formula(order):
    """Numbers of masked tokens that the network gets, written out by hand."""
    num_steps, tokens = 6, start_tokens()
    SEEN.clear()
    decode(tokens, random_key(5), 0.7, 4.5, num_steps, order)
    jax.effects_barrier()
    counts = np.array([(seen == MASK).sum(axis=1) for seen, _ in SEEN])
    if order == "confidence":
        # 16 cos(15, 30, 45, 60, 75 degrees) = 15.45, 13.86, 11.31, 8, 4.14; 10 and 3 alike, falling by >= 1
        expected = {0: [16, 15, 13, 11, 8, 4], 1: [10, 9, 8, 7, 5, 2], 2: [3, 2, 1, 1, 1, 1]}
    else:
        # 1 - arccos(1/6 .. 5/6) / (pi/2) = 0.107, 0.216, 1/3, 0.465, 0.627; at least t+1 are revealed
        expected = {0: [16, 15, 13, 11, 9, 6], 1: [10, 9, 8, 7, 6, 4], 2: [3, 2, 1, 0, 0, 0]}
    for sample, column in expected.items():
        assert counts[:, sample].tolist() == column
    assert counts[:, 4].tolist() == [0] * num_steps


def test_temperature_zero_is_greedy():
    best = np.arange(N) % VOCAB
    logits = jnp.broadcast_to(jax.nn.one_hot(best, VOCAB), (3, N, VOCAB))
    tokens = jnp.full((3, N), MASK, jnp.int16)
    drawn = masked_decode(
        lambda *_: logits, tokens, random_key(0), mask_id=MASK, num_steps=3, temperature=0.0
    )
    np.testing.assert_array_equal(drawn, np.tile(best, (3, 1)))
    assert drawn.dtype == jnp.int32


def test_omitted_arguments_have_the_documented_defaults():
    @jax.jit
    def both(tokens, key):
        draw = functools.partial(masked_decode, network, tokens, key, mask_id=MASK, num_steps=6, grid=(2, 8))
        cold = functools.partial(draw, temperature=0.05)  # else the choice's noise drowns its logits
        edit = functools.partial(mask_free_edit, network, jnp.zeros_like(tokens), key, mask_id=MASK)
        return (
            (draw(), draw(temperature=1.0, order="confidence")),
            (cold(), cold(choice_temperature=4.5)),
            (draw(order="halton"), draw(order="halton", roll=False)),
            (edit(), edit(num_steps=100, edit_ratio=0.08, top_k=3, temperature=1.0)),
        )

    for left_out, given in both(start_tokens(), random_key(8)):
        np.testing.assert_array_equal(left_out, given)


@pytest.mark.parametrize("edit_ratio, redrawn", [(1e-3, 1), (0.5, 8), (1, 16)])
def test_an_edit_resamples_its_ratio_of_tokens_and_at_least_one(edit_ratio, redrawn):
    tokens, logits = np.zeros((2, N), np.int16), jnp.zeros((2, N, VOCAB)).at[..., 4].set(1.0)
    settings = {"mask_id": MASK, "num_steps": 1, "edit_ratio": edit_ratio, "temperature": 0.0}
    edited = mask_free_edit(lambda *_: logits, tokens, random_key(0), **settings)
    assert np.sum(np.array(edited) == 4, axis=1).tolist() == [redrawn, redrawn]
    assert edited.dtype == jnp.int32


@pytest.mark.parametrize("edit_ratio", [0, 1.5])
def test_an_edit_ratio_out_of_range_is_refused(edit_ratio):
    with pytest.raises(ValueError, match=f"edit_ratio must be above 0 and at most 1, given {edit_ratio}"):
        mask_free_edit(network, np.zeros((2, N), int), random_key(0), mask_id=MASK, edit_ratio=edit_ratio)


def test_an_edit_takes_logits_that_are_not_made():
    rng = np.random.default_rng(4)
    hidden, table, bias = (rng.normal(size=s).astype(np.float32) for s in ((2, N, 3), (VOCAB, 3), (VOCAB,)))

    @jax.jit
    def both(tokens, key):
        linear = LinearLogits(*map(jnp.asarray, (hidden, table, bias)))
        edit = functools.partial(
            mask_free_edit, tokens=tokens, key=key, mask_id=MASK, num_steps=3, edit_ratio=0.5
        )
        return edit(lambda *_: linear), edit(lambda *_: unembed(*linear))

    edited, expected = both(np.zeros((2, N), np.int32), random_key(1))
    np.testing.assert_array_equal(edited, expected)
    assert len(np.unique(edited)) > 2


def test_an_edit_refuses_a_temperature_below_zero():
    with pytest.raises(ValueError, match="temperature must be 0 or greater, given -0.5"):
        mask_free_edit(network, np.zeros((2, N), int), random_key(0), mask_id=MASK, temperature=-0.5)


def test_mask_free_edit_changes_few_tokens_and_only_to_the_top_codes():
    tokens = np.random.default_rng(2).integers(0, VOCAB, size=(3, N)).astype(np.int32)
    editable = np.arange(N) >= 4
    top = np.array([[2, 5]])
    logits = jnp.zeros((3, N, VOCAB)).at[..., top].set(3.0)
    seen = []

    def logits_fn(tokens, step_fraction):
        jax.debug.callback(lambda t, f: seen.append((np.array(t), float(f))), tokens, step_fraction)
        return logits

    def edit(num_steps):
        edited = mask_free_edit(
            logits_fn,
            tokens,
            random_key(3),
            mask_id=MASK,
            num_steps=num_steps,
            edit_ratio=0.25,
            top_k=2,
            editable=editable,
        )
        jax.effects_barrier()
        return np.array(edited)

    edited = edit(60)
    np.testing.assert_array_equal(edited[:, :4], tokens[:, :4])
    # Every editable token is redrawn some time: the chance that one is not is (1 - 3/12)^60 < 1e-7 each.
    assert np.isin(edited[:, 4:], top).all() and len(np.unique(edited[:, 4:])) == 2
    assert len(seen) == 60 and {fraction for _, fraction in seen} == {1.0}
    assert all(((t == MASK).sum(axis=1) == 3).all() for t, _ in seen)  # 25 % of 12
    moved = [(a != b) & (a != MASK) & (b != MASK) for (a, _), (b, _) in itertools.pairwise(seen)]
    assert not any(m.any() for m in moved)  # what is not masked stays as it was


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1, given 0"),
        ({"num_steps": 2.0}, "num_steps must be a whole number"),
        ({"temperature": -1.0}, "temperature must be 0 or greater, given -1.0"),
        ({"choice_temperature": float("nan")}, "choice_temperature must be 0 or greater"),
        ({"order": "raster"}, "order must be one of confidence, halton, given 'raster'"),
        ({"order": "halton"}, "needs the grid of the 16 tokens, .*, given None"),
        ({"order": "halton", "grid": (4, 5)}, r"given \(4, 5\)"),
        ({"mask_id": 3}, "mask_id 3 could be sampled"),
        ({"mask_id": 0}, "mask_id 0 could be sampled"),
        ({"tokens": np.zeros((2, 4, 4), np.int32)}, "tokens must be integers"),
        ({"tokens": np.zeros((2, N), np.float32)}, "tokens must be integers"),
        ({"tokens": np.zeros((2, N + 1), np.int32)}, r"logits of shape \(2, 17, 'vocab'\)"),
        ({"on_step": 3}, "on_step must be None, a callable"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {"tokens": np.full((2, N), MASK), "mask_id": MASK, "num_steps": 2} | change
    tokens = arguments.pop("tokens")
    with pytest.raises(ValueError, match=message):
        masked_decode(lambda *_: jnp.zeros((2, N, VOCAB)), tokens, random_key(0), **arguments)
