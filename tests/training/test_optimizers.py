"""Optimizers against written-out formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from muse_jax.training.optimizers import (
    decay_mask,
    ema_decay,
    make_optimizer,
    make_schedule,
    matrix_axes,
    update_ema,
)

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
    assert float(schedule(25)) == pytest.approx(0, abs=1e-8)  # it stays at the end
    last = make_schedule({**OPTIM, "decay": "cosine"}, total_steps=5)  # one step after warmup
    assert float(last(5)) == pytest.approx(0, abs=1e-8)


def test_a_constant_schedule_works_with_and_without_warmup():
    schedule = make_schedule(OPTIM, total_steps=20)
    assert schedule(0) == pytest.approx(0.0025) and schedule(19) == pytest.approx(0.01)
    assert make_schedule({**OPTIM, "warmup_steps": 0}, 20)(0) == pytest.approx(0.01)


def test_ema_is_the_formula_with_a_growing_decay():
    ema = update_ema({"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([3.0, 6.0])}, 0.9)
    np.testing.assert_allclose(ema["a"], [0.9 * 1 + 0.1 * 3, 0.9 * 2 + 0.1 * 6], rtol=1e-6)
    assert update_ema({"a": jnp.ones(2, jnp.bfloat16)}, {"a": jnp.ones(2)}, 0.9)["a"].dtype == jnp.bfloat16
    assert ema_decay(0.999, 0) == pytest.approx(0.1)
    assert ema_decay(0.999, 90) == pytest.approx(0.91)
    assert ema_decay(0.999, 10**6) == pytest.approx(0.999)
    assert ema_decay(0.0, 5) == 0.0


def test_norms_biases_and_embeddings_are_not_decayed():
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
    first, second = dict.fromkeys(params, 0.0), dict.fromkeys(params, 0.0)
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
    # Adam's step does not depend on the scale of gradients, but its first moment does.
    optimizer = make_optimizer({**OPTIM, "grad_clip": 1.0}, 10)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    _, state = optimizer.update(
        {"a": jnp.array([3.0]), "b": jnp.array([4.0])}, optimizer.init(params), params
    )
    moments = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose([moments["a"][0], moments["b"][0]], [0.1 * 3 / 5, 0.1 * 4 / 5], rtol=1e-5)


def test_the_gradient_of_a_discriminator_is_clipped_separately():
    optimizer = make_optimizer({**OPTIM, "grad_clip": 1.0}, 10)
    params = {"generator": {"a": jnp.zeros(1), "b": jnp.zeros(1)}, "discriminator": {"a": jnp.zeros(1)}}
    grads = {"generator": {"a": jnp.array([0.3]), "b": jnp.array([0.4])}}
    grads["discriminator"] = {"a": jnp.array([-1000.0])}
    _, state = optimizer.update(grads, optimizer.init(params), params)
    moments = optax.tree_utils.tree_get(state, "mu")
    generator = [moments["generator"]["a"][0], moments["generator"]["b"][0]]
    np.testing.assert_allclose(generator, [0.1 * 0.3, 0.1 * 0.4], rtol=1e-5)  # a norm of 0.5 is not clipped
    np.testing.assert_allclose(moments["discriminator"]["a"], [-0.1], rtol=1e-5)


def run(optim, params, grads):
    """The weights after one step for each tree of `grads`."""
    optimizer = make_optimizer(optim, 10)
    step = jax.jit(optimizer.update)
    state = optimizer.init(params)
    for each in grads:
        updates, state = step(each, state, params)
        params = optax.apply_updates(params, updates)
    return params


def drawn(seed, shapes):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def clipped(grads, limit):
    scale = min(1.0, limit / math.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in grads.values())))
    return {name: leaf.astype(np.float64) * scale for name, leaf in grads.items()}


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_adafactor_steps_are_the_formula(b1):
    """Shazeer & Stern, algorithm 4 with decay 1 - t^-0.8; then momentum, weight decay and schedule."""
    shapes = {"kernel": (128, 200), "bias": (130,)}  # only the kernel has two axes of at least 128
    optim = {**OPTIM, "name": "adafactor", "b1": b1, "weight_decay": 0.1, "grad_clip": 300.0}
    params, grads = drawn(0, shapes), [drawn(step, shapes) for step in (1, 2, 3)]
    grads[1] = jax.tree.map(lambda leaf: 5 * leaf, grads[1])  # of norm 800: clipped, and its update too
    expected = {name: leaf.astype(np.float64) for name, leaf in params.items()}
    row, column, full, momentum = 0.0, 0.0, 0.0, dict.fromkeys(shapes, 0.0)
    clips = []
    for step, each in enumerate(grads, 1):
        decay, each = 1 - step**-0.8, clipped(each, 300.0)
        square = {name: leaf**2 + 1e-30 for name, leaf in each.items()}
        row = decay * row + (1 - decay) * square["kernel"].mean(axis=1)
        column = decay * column + (1 - decay) * square["kernel"].mean(axis=0)
        full = decay * full + (1 - decay) * square["bias"]
        second = {"kernel": row[:, None] * column / row.mean(), "bias": full}
        for name in shapes:
            update = each[name] / np.sqrt(second[name])
            clips.append(np.sqrt((update**2).mean()))
            update = update / max(1.0, clips[-1])
            momentum[name] = b1 * momentum[name] + (1 - b1) * update
            shrink = 0.1 * expected[name] if name == "kernel" else 0.0
            expected[name] = expected[name] - 0.01 * min(1, step / 4) * (momentum[name] + shrink)
    assert min(clips) < 1 and max(clips) > 1.1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        run(optim, params, grads),
        expected,
    )


def test_adafactor_keeps_rows_and_columns_of_second_moments():
    state = make_optimizer({**OPTIM, "name": "adafactor", "b1": 0.0}, 10).init(
        {"kernel": jnp.ones((128, 256))}
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 1000  # not 32768


def test_adam_has_its_betas_and_no_decay():
    optim = {**OPTIM, "name": "adam", "b1": 0.0, "b2": 0.5, "eps": 0.1, "warmup_steps": 1, "decay": "cosine"}
    params, grads = drawn(0, {"kernel": (3, 4)}), [drawn(step, {"kernel": (3, 4)}) for step in (1, 2, 3)]
    expected, second = params["kernel"].astype(np.float64), 0.0
    for step, each in enumerate(grads, 1):
        second = 0.5 * second + 0.5 * each["kernel"].astype(np.float64) ** 2
        move = each["kernel"] / (np.sqrt(second / (1 - 0.5**step)) + 0.1)
        expected = expected - float(make_schedule(optim, 10)(step - 1)) * move
    np.testing.assert_allclose(run(optim, params, grads)["kernel"], expected, rtol=1e-5)


def orthogonalized(matrix):
    """Five Newton-Schulz steps with Jordan's coefficients."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


def test_muon_steps_are_the_formulas_of_muon_on_matrices_and_of_nadam_on_the_rest():
    shapes = {"kernel": (6, 4), "bias": (5,)}
    optim = {
        **OPTIM,
        "name": "muon",
        "b1": 0.8,
        "b2": 0.9,
        "weight_decay": 0.1,
        "grad_clip": 3.0,
        "warmup_steps": 1,
        "decay": "cosine",
    }
    params, grads = drawn(0, shapes), [drawn(step, shapes) for step in (1, 2, 3)]
    matrix, vector = (params[name].astype(np.float64) for name in shapes)
    momentum, first, second = 0.0, 0.0, 0.0
    for step, each in enumerate(grads, 1):
        each, lr = clipped(each, 3.0), float(make_schedule(optim, 10)(step - 1))
        momentum = 0.95 * momentum + 0.05 * each["kernel"]
        ahead = 0.95 * momentum / (1 - 0.95 ** (step + 1)) + 0.05 * each["kernel"] / (1 - 0.95**step)
        matrix = matrix - lr * (0.2 * math.sqrt(6) * orthogonalized(ahead) + 0.1 * matrix)
        first, second = 0.8 * first + 0.2 * each["bias"], 0.9 * second + 0.1 * each["bias"] ** 2
        ahead = 0.8 * first / (1 - 0.8 ** (step + 1)) + 0.2 * each["bias"] / (1 - 0.8**step)
        vector = vector - lr * ahead / (np.sqrt(second / (1 - 0.9**step)) + 1e-8)
    got = run(optim, params, grads)
    np.testing.assert_allclose(got["kernel"], matrix, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(got["bias"], vector, rtol=1e-4)


def test_matrices_of_muon_leave_layers_and_parts_out_and_join_heads():
    layers = {"qkv": np.ones((2, 16, 3, 2, 4)), "up": np.ones((2, 16, 24)), "gate": np.ones((2, 16))}
    params = {"layers": {name: {"kernel": value} for name, value in layers.items()}}
    axes = matrix_axes({**params, "conv": {"kernel": np.ones((3, 3, 4, 8)), "bias": np.ones(8)}})
    at = {name: part["kernel"] for name, part in axes["layers"].items()}
    assert (at["qkv"].reduction_axis, at["qkv"].output_axis) == (1, (-2, -1))
    assert (at["up"].reduction_axis, at["up"].output_axis) == (1, (-1,))
    assert at["gate"] is None  # a vector a layer
    assert (axes["conv"]["kernel"].reduction_axis, axes["conv"]["kernel"].output_axis) == ((0, 1, 2), (-1,))
    assert axes["conv"]["bias"] is None


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
    nadam = optax.nadam(0.01, OPTIM["b1"], OPTIM["b2"])
    expected, _ = nadam.update(grads["table"], nadam.init(params["table"]))
    np.testing.assert_allclose(updates["table"]["embedding"], expected["embedding"], rtol=1e-4)
