"""The state of a run and the step that moves it on."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.core import meta
from jax.sharding import Mesh

from muse_jax.training.optimizers import ema_decay, update_ema
from muse_jax.training.partitioning import batch_sharding, like_params, replicated, tree_shardings


class Task(Protocol):
    """What the loop asks of a task. `init`, `loss`, `evaluate` and `preview` are pure and get traced."""

    def init(self, key: jax.Array) -> Any:
        """Fresh parameters; leaves may carry logical axis names."""

    def frozen(self) -> Any:
        """Weights that are used but not trained, {} if none."""

    def loss(
        self, params: Any, frozen: Any, batch: Mapping[str, Any], key: jax.Array, step: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The scalar to minimise and scalars to log."""

    def evaluate(self, params: Any, frozen: Any, batch: Mapping[str, Any], key: jax.Array) -> dict[str, Any]:
        """Scores of a batch, scalars or arrays, that are averaged over a split's images."""

    def summarize(self, scores: dict[str, Any]) -> dict[str, Any]:
        """The scalars to report from those averages. Not traced."""

    def preview(self, params: Any, frozen: Any, batch: Mapping[str, Any], key: jax.Array) -> dict[str, Any]:
        """Names of pictures and uint8 images (n, height, width, 3)."""

    def make_loader(self, split: str, seed: int) -> Iterator[Mapping[str, Any]]:
        """Batches as dicts of numpy arrays, endless for the training split, one pass over any other.

        It has `get_state() -> value that JSON can hold` and `set_state(value)`.
        """


@struct.dataclass
class TrainState:
    """Everything of a run that lives on the devices. `skipped` counts steps whose gradient was not finite."""

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any
    skipped: jax.Array


def create_state(
    task: Task, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh
) -> tuple[Callable[[], TrainState], TrainState, TrainState]:
    """How to make a fresh state, its shapes, and the sharding of each of its leaves.

    Nothing is allocated until the returned function is called, so a resumed run never holds the state twice.
    """
    key = jax.random.fold_in(jax.random.key(seed), 2**31 - 1)  # apart from every step's key

    def init(key: jax.Array) -> TrainState:
        params = meta.unbox(task.init(key))
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, params, jax.tree.map(jnp.copy, params), optimizer.init(params), zero)

    boxed, shapes = jax.eval_shape(task.init, key), jax.eval_shape(init, key)
    params = tree_shardings(boxed, mesh)
    opt_state = like_params(shapes.opt_state, shapes.params, params, mesh)
    one: Any = replicated(mesh)
    shardings = TrainState(one, params, params, opt_state, one)
    return lambda: jax.jit(init, out_shardings=shardings)(key), shapes, shardings


def make_train_step(
    task: Task, optimizer: optax.GradientTransformation, schedule: Callable[[Any], Any], config: Any
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Any]]]:
    """The function (state, frozen, batch) -> (state, scalars), not yet jitted.

    The draws of step n come from fold_in(key(seed), n) alone, so a resumed run repeats an uninterrupted one.
    """
    seed, decay, skip = config.seed, config.optim.ema, config.optim.skip_nonfinite

    def train_step(state: TrainState, frozen: Any, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        loss_fn = lambda params: task.loss(params, frozen, batch, key, state.step)  # noqa: E731
        (loss, scalars), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        norm = optax.global_norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = update_ema(state.ema, params, ema_decay(decay, state.step))
        new = TrainState(state.step + 1, params, ema, opt_state, state.skipped)
        if skip:
            old = dataclasses.replace(state, step=state.step + 1, skipped=state.skipped + 1)
            new = jax.tree.map(lambda a, b: jnp.where(jnp.isfinite(norm), a, b), new, old)
        scalars = {
            **scalars,
            "loss": loss,
            "grad_norm": norm,
            "lr": schedule(state.step),
            "skipped": new.skipped,
        }
        return new, scalars

    return train_step


def jit_train_step(train_step: Callable[..., Any], shardings: TrainState, frozen: Any, mesh: Mesh) -> Any:
    """Jits the step with the state donated: its buffers become the new state's."""
    frozen = jax.tree.map(lambda leaf: leaf.sharding, frozen)
    return jax.jit(
        train_step,
        in_shardings=(shardings, frozen, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
