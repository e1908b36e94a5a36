"""Training state and training step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from flax.core import meta
from jax.sharding import Mesh

from muse_jax.sharding.partitioning import batch_sharding, like_params, put_tree, replicated, tree_shardings
from muse_jax.training.optimizers import ema_decay, update_ema
from muse_jax.training.task import Task


@struct.dataclass
class TrainState:
    """The state of a run on the devices.

    Attributes:
      step: number of steps taken.
      params: trained parameters.
      ema: exponential moving average of `params`.
      opt_state: of the optimizer.
      skipped: number of steps skipped for a non-finite loss or gradient.
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any
    skipped: jax.Array


def create_state(
    task: Task, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh
) -> tuple[Callable[[], TrainState], TrainState, TrainState]:
    """Describes the training state of a task on a mesh.

    Returns:
      A function that makes a fresh state, the shapes of the state, and its shardings. Nothing is allocated
      before the function is called: a resumed run never holds the state twice, and the devices of `mesh` may
      belong to an abstract topology.
    """

    def init_key() -> jax.Array:
        return jax.random.fold_in(jax.random.key(seed), 2**31 - 1)  # different from the key of any step

    def init_params() -> Any:
        return task.init(init_key())

    def init() -> TrainState:
        params = meta.unbox(init_params())
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, params, jax.tree.map(jnp.copy, params), optimizer.init(params), zero)

    boxed, shapes = jax.eval_shape(init_params), jax.eval_shape(init)
    params = tree_shardings(boxed, mesh)
    opt_state = like_params(shapes.opt_state, shapes.params, params, mesh)
    one: Any = replicated(mesh)
    shardings = TrainState(one, params, params, opt_state, one)
    init_on_mesh = jax.jit(init, out_shardings=shardings)

    def fresh() -> TrainState:
        state = init_on_mesh()
        given = task.initialize_from_data(state.params, init_key())
        if given is state.params:
            return state
        given = put_tree(given, params)
        copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=params)
        return dataclasses.replace(state, params=given, ema=copy(given))

    return fresh, shapes, shardings


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[Any], Any],
    config: Any,
    shardings: TrainState | None = None,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Any]]]:
    """Builds the function (state, frozen, batch) -> (state, scalars), not jitted.

    Step n draws from fold_in(key(seed), n) only, so that a resumed run repeats an uninterrupted one.

    Args:
      task: provides the loss.
      optimizer: see `make_optimizer`.
      schedule: the learning rate at each step, to be logged.
      config: of the run; its `optim` and `seed` are used.
      shardings: of the state, from `create_state`. Gradients are constrained to the shardings of their
        parameters; with None the compiler chooses.
    """
    optim, seed = config.optim, config.seed

    def train_step(state: TrainState, frozen: Any, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        loss_fn = lambda params, batch, key: task.loss(params, frozen, batch, key, state.step)  # noqa: E731
        loss, scalars, grads = accumulated_gradients(
            loss_fn, state.params, batch, key, optim.accumulate, shardings.params if shardings else None
        )
        norm = optax.global_norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        params = task.after_update(params, frozen, batch, key, state.step)
        ema = update_ema(state.ema, params, ema_decay(optim.ema, state.step))
        new = TrainState(state.step + 1, params, ema, opt_state, state.skipped)
        if optim.skip_nonfinite:
            old = dataclasses.replace(state, step=state.step + 1, skipped=state.skipped + 1)
            good = jnp.isfinite(norm) & jnp.isfinite(loss)
            new = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
        scalars = {
            **scalars,
            "loss": loss,
            "grad_norm": norm,
            "lr": schedule(state.step),
            "skipped": new.skipped,
        }
        return new, scalars

    return train_step


def accumulated_gradients(
    loss_fn: Callable[[Any, Any, jax.Array], tuple[Any, dict[str, Any]]],
    params: Any,
    batch: Any,
    key: jax.Array,
    parts: int,
    shardings: Any = None,
) -> tuple[Any, dict[str, Any], Any]:
    """Loss, scalars and gradients of a batch, accumulated over `parts` microbatches.

    All three are means over the microbatches, weighted by the loss's scalar "weight" (1 if there is none),
    the number of items that the loss is a mean over. Thus every masked token counts alike, as in the whole
    batch, however few a microbatch has. A statistic that is not a mean over the batch (the entropy of
    codebook usage, a discriminator's standard deviation) is computed within each microbatch.

    Microbatch i consists of rows i, i + parts, i + 2 * parts, ..., so that no row leaves its device. It draws
    from fold_in(key, i), or from `key` itself if `parts` is 1.
    """
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def weighted(batch: Any, key: jax.Array) -> tuple[Any, Any]:
        (loss, scalars), grads = value_and_grad(params, batch, key)
        if shardings is not None:
            grads = jax.lax.with_sharding_constraint(grads, shardings)
        weight = jnp.asarray(scalars.get("weight", 1.0), jnp.float32)
        scalars = {name: value for name, value in scalars.items() if name != "weight"}
        return weight, (loss, scalars, grads)

    if parts == 1:
        return weighted(batch, key)[1]

    def microbatches(rows: jax.Array) -> jax.Array:
        rows = rows.reshape(-1, parts, *rows.shape[1:]).swapaxes(0, 1)
        return nn.with_logical_constraint(rows, (None, "batch", *[None] * (rows.ndim - 2)))

    def add(sums: tuple[Any, Any], part: tuple[Any, Any]) -> tuple[tuple[Any, Any], None]:
        index, rows = part
        weight, means = weighted(rows, jax.random.fold_in(key, index))
        total = jax.tree.map(lambda sum, mean: sum + weight * mean, sums[1], means)
        return (sums[0] + weight, total), None

    split = jax.tree.map(microbatches, batch)
    shapes = jax.eval_shape(weighted, jax.tree.map(lambda rows: rows[0], split), key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)
    (weight, total), _ = jax.lax.scan(add, zeros, (jnp.arange(parts), split))
    return jax.tree.map(lambda sum: sum / weight, total)


def jit_train_step(train_step: Callable[..., Any], shardings: TrainState, frozen: Any, mesh: Mesh) -> Any:
    """Jits the training step, which donates the buffers of the old state to the new one."""
    frozen = jax.tree.map(lambda leaf: leaf.sharding, frozen)
    return jax.jit(
        train_step,
        in_shardings=(shardings, frozen, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
