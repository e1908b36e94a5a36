"""Runs that must end at a given time: their schedule is shortened to the steps that the time allows."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp

from muse_jax.training.state import TrainState


class Deadline:
    """Where a run under a time limit should be in its schedule.

    seconds: from now to the end; 0 for no limit.
    total: the step that the run ends at.
    """

    def __init__(self, seconds: float, total: int):
        self._limited, self._total = seconds > 0, total
        self._end = time.monotonic() + seconds
        self._calls: list[tuple[float, int]] = []

    def due(self, step: int, every: int) -> int:
        """The step that the clock is at, a multiple of `every`, at least `step` and below the last.

        Ask before the first step and then every so many steps. The schedule is spread over the time from the
        second call on: the steps before it waited for compilation.
        """
        if not self._limited:
            return step
        now = time.monotonic()
        self._calls = [*self._calls[:1], (now, step)] if len(self._calls) < 2 else self._calls
        began, start = self._calls[-1]
        share = (now - began) / max(self._end - began, 1e-9)
        if now >= self._end:
            return self._total - 1
        due = start + int(share * (self._total - start))
        return max(step, due - due % every)


def skip_to(state: TrainState, step: int) -> TrainState:
    """`state` with its step, and the optimizer's counts of steps, moved on to `step`.

    The learning rate follows them, so that it falls to zero although steps are left out.
    """
    ahead = step - int(state.step)

    def moved(leaf: Any) -> Any:
        is_count = jnp.ndim(leaf) == 0 and jnp.issubdtype(leaf.dtype, jnp.integer)
        return jax.device_put(leaf + ahead, leaf.sharding) if is_count else leaf

    return dataclasses.replace(state, step=moved(state.step), opt_state=jax.tree.map(moved, state.opt_state))
