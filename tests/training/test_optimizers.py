"""Optimizers against written-out formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from muse_jax.training.optimizers import decay_mask, ema_decay, make_optimizer, make_schedule, update_ema

OPTIM = {
    "name": "adamw",
    "lr": 0.01,
    "b1": 0.9,
    "b2": 0.99,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "warmup_steps": 4,
    "decay": "constant",
    "grad_clip": 0.0,
}


def test_schedule_is_linear_then_half_a_cosine():
    schedule = make_schedule({**OPTIM, "decay": "cosine"}, total_steps=20)
    for step in range(4):
        assert schedule(step) == pytest.approx(0.01 * (step + 1) / 4, rel=1e-5)
    for step in range(4, 21):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 4) / 16))
        assert float(schedule(step)) == pytest.approx(0.01 * cosine, abs=1e-8)


def test_constant_schedule_stays_after_warmup_and_needs_none():
    schedule = make_schedule(OPTIM, total_steps=20)
    assert schedule(0) == pytest.approx(0.0025) and schedule(19) == pytest.approx(0.01)
    assert make_schedule({**OPTIM, "warmup_steps": 0}, 20)(0) == pytest.approx(0.01)


def test_ema_is_the_formula_and_its_decay_grows():
    ema = update_ema({"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([3.0, 6.0])}, 0.9)
    np.testing.assert_allclose(ema["a"], [0.9 * 1 + 0.1 * 3, 0.9 * 2 + 0.1 * 6], rtol=1e-6)
    assert ema_decay(0.999, 0) == pytest.approx(0.1)
    assert ema_decay(0.999, 90) == pytest.approx(0.91)
    assert ema_decay(0.999, 10**6) == pytest.approx(0.999)
    assert ema_decay(0.0, 5) == 0.0


def test_weight_decay_leaves_out_norms_biases_and_tables():
    matrix, vector = np.ones((2, 2)), np.ones(2)
    stacked = np.ones((3, 2))  # a bias of three scanned layers has two axes too
    params = {
        "dense": {"kernel": matrix, "bias": stacked},
        "LayerNorm_0": {"scale": stacked, "kernel": matrix},
        "tokens": {"embedding": matrix},
        "quantizer": {"codebook": matrix},
        "positions": {"position_table": matrix},
        "gate": {"weight": vector},
    }
    mask = decay_mask(params)
    decayed = {jax.tree_util.keystr(path) for path, on in jax.tree_util.tree_leaves_with_path(mask) if on}
    assert decayed == {"['dense']['kernel']"}


def test_adamw_step_is_the_formula():
    optim = {**OPTIM, "weight_decay": 0.1, "warmup_steps": 0}
    params = {"kernel": jnp.array([[2.0, -3.0]]), "bias": jnp.array([1.0])}
    grads = {"kernel": jnp.array([[0.5, -0.2]]), "bias": jnp.array([4.0])}
    optimizer = make_optimizer(optim, 10)
    state = optimizer.init(params)
    first, second = {name: 0.0 for name in params}, {name: 0.0 for name in params}
    expected = {name: np.asarray(value, np.float64) for name, value in params.items()}
    for step in range(1, 4):
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for name in expected:
            grad = np.asarray(grads[name], np.float64)
            first[name] = 0.9 * first[name] + 0.1 * grad
            second[name] = 0.99 * second[name] + 0.01 * grad**2
            move = first[name] / (1 - 0.9**step) / (np.sqrt(second[name] / (1 - 0.99**step)) + 1e-8)
            decay = 0.1 * expected[name] if name == "kernel" else 0.0
            expected[name] = expected[name] - 0.01 * (move + decay)
    for name in expected:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-5)


def test_gradients_are_clipped_by_their_global_norm():
    # Adam does not see the scale of its gradients, so the clipping shows in what its first moment holds.
    optimizer = make_optimizer({**OPTIM, "grad_clip": 1.0}, 10)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    _, state = optimizer.update(
        {"a": jnp.array([3.0]), "b": jnp.array([4.0])}, optimizer.init(params), params
    )
    moments = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose([moments["a"][0], moments["b"][0]], [0.1 * 3 / 5, 0.1 * 4 / 5], rtol=1e-5)


def test_a_discriminator_s_gradient_is_clipped_apart_from_all_others():
    optimizer = make_optimizer({**OPTIM, "grad_clip": 1.0}, 10)
    params = {"generator": {"a": jnp.zeros(1), "b": jnp.zeros(1)}, "discriminator": {"a": jnp.zeros(1)}}
    grads = {"generator": {"a": jnp.array([0.3]), "b": jnp.array([0.4])}}
    grads["discriminator"] = {"a": jnp.array([-1000.0])}
    _, state = optimizer.update(grads, optimizer.init(params), params)
    moments = optax.tree_utils.tree_get(state, "mu")
    generator = [moments["generator"]["a"][0], moments["generator"]["b"][0]]
    np.testing.assert_allclose(generator, [0.1 * 0.3, 0.1 * 0.4], rtol=1e-5)  # a norm of 0.5 is left alone
    np.testing.assert_allclose(moments["discriminator"]["a"], [-0.1], rtol=1e-5)


def test_adafactor_factors_large_matrices_and_descends():
    optimizer = make_optimizer({**OPTIM, "name": "adafactor", "b1": 0.0, "grad_clip": 1.0}, 10)
    params = {"kernel": jnp.ones((128, 256))}
    state = optimizer.init(params)
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(state)) < 1000
    )  # rows and columns, not 32768 second moments
    updates, _ = optimizer.update({"kernel": jnp.ones((128, 256))}, state, params)
    assert (np.asarray(updates["kernel"]) < 0).all()


def test_muon_makes_each_matrix_of_the_stacked_layers_near_orthogonal():
    muon = {**OPTIM, "name": "muon", "warmup_steps": 0}
    keys = iter(jax.random.split(jax.random.key(0), 9))
    draw = lambda *shape: jax.random.normal(next(keys), shape)  # noqa: E731
    params = {
        "layers": {"qkv": {"kernel": draw(2, 16, 3, 2, 4)}, "up": {"kernel": draw(2, 16, 24)}},
        "conv": {"kernel": draw(3, 3, 4, 8)},
        "table": {"embedding": draw(10, 6)},
    }
    grads = jax.tree.map(lambda leaf: leaf**3, params)
    optimizer = make_optimizer(muon, 10)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    qkv = updates["layers"]["qkv"]["kernel"].reshape(2, 16, 3, 8).swapaxes(1, 2)
    for matrices, larger in (
        (qkv, 16),
        (updates["layers"]["up"]["kernel"], 24),
        (updates["conv"]["kernel"].reshape(36, 8), 36),
    ):
        # Five Newton-Schulz steps bring every singular value to about 1; the rest is lr 0.01 and the scale.
        singular = np.linalg.svd(np.asarray(matrices), compute_uv=False) / (0.01 * 0.2 * larger**0.5)
        assert singular.min() > 0.3 and singular.max() < 1.4
    adam = optax.nadam(0.01, OPTIM["b1"], OPTIM["b2"])
    expected, _ = adam.update(grads["table"], adam.init(params["table"]))
    np.testing.assert_allclose(updates["table"]["embedding"], expected["embedding"], rtol=1e-4)
