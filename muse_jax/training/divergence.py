"""Divergence: detecting consecutive non-finite steps, and rolling back to an earlier checkpoint."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from muse_jax.checkpointing.run import Checkpoints
from muse_jax.training.state import TrainState


def _is_finite(scalars: Mapping[str, Any]) -> bool:
    return bool(np.isfinite(scalars["loss"]) and np.isfinite(scalars["grad_norm"]))


@dataclasses.dataclass
class DivergenceDetector:
    """Counts consecutive steps with a non-finite loss or gradient, and averages scalars between two logs.

    Attributes:
      limit: number of consecutive non-finite steps that counts as divergence; 0 disables.
      consecutive: number of non-finite steps since the last finite one.
    """

    limit: int
    consecutive: int = 0
    _rows: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)

    def record(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds the scalars of steps, oldest first."""
        for row in rows:
            self.consecutive = 0 if _is_finite(row) else self.consecutive + 1
            self._rows.append(row)

    @property
    def diverged(self) -> bool:
        """True if the run has to roll back to its last good checkpoint."""
        return 0 < self.limit <= self.consecutive

    def means(self) -> dict[str, float]:
        """Mean of each scalar over the finite steps since the last call, or over all if none was finite.

        `skipped` is a running count, of which the newest value is returned.
        """
        finite = [row for row in self._rows if _is_finite(row)]
        means = {name: float(np.mean([row[name] for row in finite or self._rows])) for name in self._rows[0]}
        means["skipped"] = float(self._rows[-1]["skipped"])
        self._rows = []
        return means

    def reset(self) -> None:
        """Forgets all recorded steps."""
        self.consecutive, self._rows = 0, []


def roll_back(
    config: Any,
    checkpoints: Checkpoints,
    consecutive: int,
    step: int,
    rollbacks: int,
    shapes: TrainState,
    shardings: TrainState,
    say: Callable[[str], None],
) -> TrainState:
    """Restores the state of the newest checkpoint; the data continues where it is.

    No checkpoint is written while steps are non-finite (except by a signal, at a step whose update was
    skipped), so the newest one predates the divergence.

    Args:
      config: of the run; `optim.max_rollbacks` bounds the number of rollbacks.
      checkpoints: of the run.
      consecutive: number of consecutive non-finite steps, for the message.
      step: the newest step.
      rollbacks: number of rollbacks, with this one.
      shapes: of the state.
      shardings: of the state.
      say: prints a line.

    Raises:
      ValueError: there is no checkpoint, or the run has rolled back too often.
    """
    checkpoints.wait()
    newest = checkpoints.latest_step()
    if newest is None or rollbacks > config.optim.max_rollbacks:
        reason = (
            "before the first checkpoint"
            if newest is None
            else f"and the run has rolled back {config.optim.max_rollbacks} times already"
        )
        raise ValueError(
            f"The loss or its gradient was non-finite for {consecutive} consecutive steps up to step {step}, "
            f"{reason}: look at the data, or lower config.optim.lr."
        )
    state = checkpoints.restore(shapes, shardings).state
    say(
        f"step {step}: {consecutive} consecutive non-finite steps; rolled back to the checkpoint of step "
        f"{int(state.step)}, continuing with the next data"
    )
    return state
