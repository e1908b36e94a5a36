"""The state that a run begins with or goes back to: a checkpoint, or fresh, with weights of another run."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from muse_jax.checkpointing.run import Checkpoints, restore_matching
from muse_jax.checkpointing.source import grown_params, is_checkpoint, trained_params
from muse_jax.training.preemption import FiniteWatch
from muse_jax.training.state import TrainState


def begin(
    config: Any,
    loader: Any,
    checkpoints: Checkpoints,
    fresh: Callable[[], TrainState],
    shapes: TrainState,
    shardings: TrainState,
    say: Callable[[str], None],
) -> tuple[TrainState, int]:
    """The state of the last good checkpoint, with `loader` set to its position, or a fresh one.

    Returns:
      The state, and how often the run had gone back before.

    Raises:
      ValueError: one sentence, for checkpoints of another config or none that can be read, or a source of
        weights that has none.
    """
    if checkpoints.latest_step() is not None:
        state, position, rollbacks = checkpoints.restore(shapes, shardings)
        loader.set_state(position)
        return state, rollbacks
    state = fresh()
    if config.init_from:
        state = start_from(state, config, shardings, say)
    return state, 0


def go_back(
    config: Any,
    checkpoints: Checkpoints,
    finite: FiniteWatch,
    step: int,
    rollbacks: int,
    shapes: TrainState,
    shardings: TrainState,
    say: Callable[[str], None],
) -> TrainState:
    """The state of the last good checkpoint, for the `rollbacks`-th time; the data goes on where it is.

    None is written while steps are not finite, unless a signal stops the run at one whose update was skipped:
    the newest holds weights from before them.

    Raises:
      ValueError: one sentence, if that was often enough or there is no checkpoint.
    """
    checkpoints.wait()
    newest = checkpoints.latest_step()
    if newest is None or rollbacks > config.optim.max_rollbacks:
        why = (
            "before there was a checkpoint to go back to"
            if newest is None
            else f"and the run has gone back {config.optim.max_rollbacks} times already"
        )
        raise ValueError(
            f"The loss or its gradient was not finite for {finite.in_a_row} steps in a row up to step "
            f"{step}, {why}: look at the data, or lower config.optim.lr."
        )
    state = checkpoints.restore(shapes, shardings).state
    say(
        f"step {step}: {finite.in_a_row} steps in a row were not finite; back to the checkpoint of step "
        f"{int(state.step)}, on with the data after them"
    )
    return state


def start_from(
    state: TrainState, config: Any, shardings: TrainState, say: Callable[[str], None]
) -> TrainState:
    """A fresh state whose weights come from an earlier run or a checkpoint where path and shape agree.

    What is sharded stays so: each device takes its own part of each weight.

    Args:
      state: fresh; the weights that nothing replaces stay its own.
      config: its `init_from` is a workdir, or a pipeline's checkpoint.
      shardings: of the state.
      say: prints a line.

    Raises:
      ValueError: if nothing agrees.
    """
    source, grown = config.init_from, grown_params(config)
    if grown is not None:
        given = _place(grown, state.params, shardings.params)
    elif is_checkpoint(source):
        given = _place(trained_params(config.task, source), state.params, shardings.params)
    else:
        given = restore_matching(source, state.params, shardings.params)
    if not given:
        raise ValueError(
            f"config.init_from={source!r} has no weight that this model has: take a run of its kind."
        )
    say(f"{len(given)} of {len(jax.tree.leaves(state.params))} weights come from {source}")
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: given.get(jax.tree_util.keystr(path), leaf), state.params
    )
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings.params)
    return dataclasses.replace(state, params=params, ema=copy(params))


def _place(tree: Any, params: Any, shardings: Any) -> dict[str, jax.Array]:
    """The arrays of `tree` that `params` has in the same place and shape, cut up as `shardings` says."""
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
