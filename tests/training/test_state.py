"""The training step: accumulated gradients equal those of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.sharding.partitioning import make_mesh
from muse_jax.training.optimizers import make_optimizer, make_schedule
from muse_jax.training.state import accumulated_gradients, create_state, make_train_step
from tests.training.least_squares import LeastSquares, make_config

KEY = jax.random.key(3)


def batch():
    rng = np.random.default_rng(0)
    masked = rng.random((8, 5)) < rng.random((8, 1))  # a random number in each row
    masked[:, 0] = True
    return {"x": rng.normal(size=(8, 5)).astype(np.float32), "masked": masked}


def close(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), left, right)


def masked_loss(params, batch, key):
    error = jnp.square(batch["x"] * params["scale"] - params["shift"])
    weight = jnp.sum(batch["masked"])
    return jnp.sum(error * batch["masked"]) / weight, {"share": jnp.mean(batch["masked"]), "weight": weight}


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_microbatches_are_weighted_by_their_masked_tokens(parts):
    params = {"scale": jnp.arange(5.0), "shift": jnp.float32(0.3)}
    loss, scalars, grads = accumulated_gradients(masked_loss, params, batch(), KEY, parts)
    (whole, _), whole_grads = jax.value_and_grad(masked_loss, has_aux=True)(params, batch(), KEY)
    close((loss, grads), (whole, whole_grads))
    assert set(scalars) == {"share"}
    by_part = [np.mean(batch()["masked"][i::parts]) for i in range(parts)]
    counts = [np.sum(batch()["masked"][i::parts]) for i in range(parts)]
    np.testing.assert_allclose(scalars["share"], np.average(by_part, weights=counts), rtol=1e-6)


def test_each_microbatch_has_its_own_key():
    def loss(params, batch, key):
        return jnp.mean(batch["x"] * params * jax.random.normal(key, batch["x"].shape)), {}

    _, _, grad = accumulated_gradients(loss, jnp.float32(1.0), batch(), KEY, 4)
    noise = [jax.random.normal(jax.random.fold_in(KEY, i), (2, 5)) for i in range(4)]
    expected = np.mean([np.mean(batch()["x"][i::4] * noise[i]) for i in range(4)])
    np.testing.assert_allclose(grad, expected, rtol=1e-5)


class Noiseless(LeastSquares):
    def loss(self, params, frozen, batch, key, step):
        error = self.model.apply({"params": params}, batch["x"]) - batch["x"] @ frozen["projection"]
        return jnp.mean(error**2), {}


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_an_accumulated_step_equals_that_of_the_whole_batch(name):
    def step(accumulate):
        config = make_config(optim__accumulate=accumulate, optim__name=name)
        task, optimizer = Noiseless(config), make_optimizer(config.optim, 10)
        mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
        fresh, _, shardings = create_state(task, optimizer, 0, mesh)
        train_step = make_train_step(task, optimizer, make_schedule(config.optim, 10), config, shardings)
        return jax.jit(train_step)(fresh(), task.frozen(), next(task.make_loader("train", 0)))

    (whole, scalars), (parts, scalars_of_parts) = step(1), step(4)
    close(scalars_of_parts, scalars)
    # Optimizers divide a gradient by its size, which amplifies rounding errors of small ones.
    for left, right in zip(jax.tree.leaves(parts.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
