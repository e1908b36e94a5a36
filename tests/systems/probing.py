"""What tests of losses look at tasks with: random weights, a network's inputs, a short run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from muse_jax.training import TrainState, default_config, validate_config
from muse_jax.training.optimizers import make_optimizer, make_schedule
from muse_jax.training.state import make_train_step


def random_params(init, seed=0):
    """Weights of the shapes that `init(key)` gives, so large that all of them matter; nothing is compiled."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        names, value = [part.key for part in path], rng.normal(size=leaf.shape)
        if names[-1] == "kernel":
            value *= np.prod(leaf.shape[1:-1] if "layers" in names else leaf.shape[:-1]) ** -0.5
        elif names[-1] == "scale":
            value = 1 + 0.3 * value
        elif names[-1] == "bias":
            value *= 0.1
        return jnp.asarray(value, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, nn.unbox(jax.eval_shape(init, jax.random.key(0))))


def norm(tree):
    return float(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(tree)) ** 0.5)


def recorded(network, function):
    """`function`, jitted, and giving besides its result what each `network.apply` got and gave.

    A call is `(arguments after the variables, result)`.
    """
    plain = nn.Module.apply

    def run(*arguments):
        calls = []

        def apply(self, variables, *args, **kwargs):
            out = plain(self, variables, *args, **kwargs)
            if self == network:
                calls.append((args, out))
            return out

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nn.Module, "apply", apply)
            return function(*arguments), calls

    return jax.jit(run)


def cross_entropy(logits, label):
    """`-log p(label)` by one row of logits, in float64."""
    logits = np.asarray(logits, np.float64)
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]


def train_on(task, frozen, batch, steps):
    """The scalars of each step of a run on one batch, from the task's start by the trainer's own step.

    Every weight must have moved.
    """
    config = default_config("vqgan", "vqgan")
    config.optim.update({"name": "adam", "lr": 3e-3, "warmup_steps": 10})
    config = validate_config(config)
    optimizer, schedule = make_optimizer(config.optim, steps), make_schedule(config.optim, steps)
    train_step = make_train_step(task, optimizer, schedule, config)

    @jax.jit
    def run(frozen, batch):
        zero, params = jnp.zeros((), jnp.int32), nn.unbox(task.init(jax.random.key(0)))
        state = TrainState(zero, params, params, optimizer.init(params), zero)
        state, scalars = jax.lax.scan(
            lambda state, _: train_step(state, frozen, batch), state, None, length=steps
        )
        return params, state.params, scalars

    before, after, scalars = run(frozen, batch)
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    still = [jax.tree_util.keystr(path) for (path, old), new in pairs if np.array_equal(old, new)]
    assert still == [], still
    return scalars
