"""Time limits: skip steps so that a run finishes its schedule on time."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp

from muse_jax.training.state import TrainState


class Deadline:
    """The position in the schedule that a run with a time limit should have reached.

    Args:
      seconds: time from now to the end of the run; 0 for no limit.
      total_steps: the last step of the run.
    """

    def __init__(self, seconds: float, total_steps: int):
        self._limited, self._total_steps = seconds > 0, total_steps
        self._end = time.monotonic() + seconds
        self._calls: list[tuple[float, int]] = []

    def due(self, step: int, every: int) -> int:
        """The step that is due now: a multiple of `every`, at least `step` and before the last one.

        Call it before the first step and then every `every` steps. The schedule is spread over the time after
        the second call, because the steps before it waited for compilation.
        """
        if not self._limited:
            return step
        now = time.monotonic()
        self._calls = [*self._calls[:1], (now, step)] if len(self._calls) < 2 else self._calls
        start_time, start_step = self._calls[-1]
        fraction = (now - start_time) / max(self._end - start_time, 1e-9)
        if now >= self._end:
            return self._total_steps - 1
        due = start_step + int(fraction * (self._total_steps - start_step))
        return max(step, due - due % every)


def skip_to(state: TrainState, step: int) -> TrainState:
    """Advances the state's step and the optimizer's step counts to `step`.

    The learning rate depends on them, so that its schedule ends at zero although steps are skipped.
    """
    skipped = step - int(state.step)

    def advance(leaf: Any) -> Any:
        is_count = jnp.ndim(leaf) == 0 and jnp.issubdtype(leaf.dtype, jnp.integer)
        return jax.device_put(leaf + skipped, leaf.sharding) if is_count else leaf

    return dataclasses.replace(
        state, step=advance(state.step), opt_state=jax.tree.map(advance, state.opt_state)
    )
