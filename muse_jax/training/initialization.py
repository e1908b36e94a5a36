"""Initial state of a run: its own checkpoint, or fresh parameters with the weights of another run."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from muse_jax.checkpointing.run import Checkpoints, restore_matching
from muse_jax.checkpointing.source import open_source
from muse_jax.training.state import TrainState


def initial_state(
    config: Any,
    task: Any,
    loader: Any,
    checkpoints: Checkpoints,
    fresh: Callable[[], TrainState],
    shapes: TrainState,
    shardings: TrainState,
    say: Callable[[str], None],
) -> tuple[TrainState, int]:
    """The state of the newest checkpoint, with `loader` moved to its position, or a fresh state.

    Args:
      config: of the run.
      loader: of the training split; its position is set when a checkpoint is restored.
      checkpoints: of the run.
      fresh: makes a fresh state.
      shapes: of the state.
      shardings: of the state.
      say: prints a line.

    Returns:
      The state, and the number of rollbacks before it.

    Raises:
      ValueError: the checkpoints belong to another config, none of them can be read, or `config.init_from`
        has no matching weights.
    """
    if checkpoints.latest_step() is not None:
        state, position, rollbacks = checkpoints.restore(shapes, shardings)
        loader.set_state(position)
        return state, rollbacks
    state = fresh()
    if config.init_from:
        state = load_init_from(state, config, task, shardings, say)
    return state, 0


def load_init_from(
    state: TrainState, config: Any, task: Any, shardings: TrainState, say: Callable[[str], None]
) -> TrainState:
    """Replaces weights of a fresh state by those of `config.init_from` with the same path and shape.

    Sharded weights stay sharded: each device reads its own part.

    Args:
      state: a fresh state; weights without a counterpart keep their values.
      config: its `init_from` is a run's workdir or a pretrained directory.
      task: selects its weights from the source.
      shardings: of the state.
      say: prints a line.

    Raises:
      ValueError: no weight matches.
    """
    source = config.init_from
    params = task.params_from(open_source(source, "config.init_from"))
    if params is None:
        given = restore_matching(source, state.params, shardings.params)
    else:
        given = _place_matching(params, state.params, shardings.params)
    if not given:
        raise ValueError(
            f"config.init_from={source!r} shares no weight with this model: use a run of the same kind."
        )
    say(f"{len(given)} of {len(jax.tree.leaves(state.params))} weights come from {source}")
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: given.get(jax.tree_util.keystr(path), leaf), state.params
    )
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings.params)
    return dataclasses.replace(state, params=params, ema=copy(params))


def _place_matching(tree: Any, params: Any, shardings: Any) -> dict[str, jax.Array]:
    """The arrays of `tree` with a path and shape of `params`, in its dtypes, laid out by `shardings`."""
    given = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    placed: dict[str, jax.Array] = {}
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings), strict=True
    ):
        name = jax.tree_util.keystr(path)
        if name in given and given[name].shape == leaf.shape:
            value = given[name].astype(leaf.dtype)
            placed[name] = jax.make_array_from_callback(value.shape, sharding, value.__getitem__)
    return placed
