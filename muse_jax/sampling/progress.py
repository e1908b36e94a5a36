"""Progress reports from compiled decoding loops, without recompilation for another listener."""

import contextlib
import contextvars
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int


class DecodeStep(NamedTuple):
    """Report after a step: `step` counts from 1 to `num_steps`; `masked` tokens of the batch remain."""

    stage: str
    step: int
    num_steps: int
    masked: int


StepCallback = Callable[[DecodeStep], None]


@struct.dataclass
class Progress:
    """Ticket of a listener: a pytree that passes through `jit`.

    Fields:
      listener: number of the listener, 0 for none. It is traced, so that one program serves all listeners.
      stage: name of the loop, static.
    """

    listener: Int[Array, ""]
    stage: str = struct.field(pytree_node=False, default="")

    def at(self, stage: str) -> "Progress":
        """The same listener, with steps reported under the name `stage`."""
        return self.replace(stage=stage)  # type: ignore[attr-defined]


class _Listener:
    def __init__(self, callback: StepCallback):
        self.callback = callback
        self.error: BaseException | None = None


_listeners: dict[int, _Listener] = {}
_numbers = itertools.count(1)
_lock = threading.Lock()
_reporting = contextvars.ContextVar("reporting", default=True)


def silent() -> Progress:
    """Ticket without a listener, for a program that was compiled with progress reports."""
    return Progress(listener=jnp.int32(0))


@contextlib.contextmanager
def listening(callback: StepCallback | None) -> Iterator[Progress]:
    """Calls `callback(DecodeStep)` on the host after each step of the loops that get the yielded ticket.

    Reports may arrive late, but all have arrived when the block ends. An exception in `callback` does not
    interrupt the device: it is raised at the end of the block, and the callback is not called again. With
    None the ticket is `silent()`.
    """
    if callback is None:
        yield silent()
        return
    listener = _Listener(callback)
    with _lock:
        number = next(_numbers)
        _listeners[number] = listener
    try:
        yield Progress(listener=jnp.int32(number))
        jax.effects_barrier()
    finally:
        with _lock:
            _listeners.pop(number, None)
    if listener.error is not None:
        raise listener.error


@contextlib.contextmanager
def without_reports() -> Iterator[None]:
    """Loops traced in this block make no reports; needed to compile for GPUs that are not present."""
    token = _reporting.set(False)
    try:
        yield
    finally:
        _reporting.reset(token)


def report_step(
    on_step: "Progress | StepCallback | None", step: Array, num_steps: int, masked: Int[Array, ""]
) -> None:
    """Reports from inside a traced loop that `step` steps are done; None adds nothing to the program.

    Raises:
      ValueError: if `on_step` is neither None, a callable nor a ticket.
    """
    if on_step is None or not _reporting.get():
        return
    if not isinstance(on_step, Progress):
        if not callable(on_step):
            raise ValueError(
                f"on_step must be None, a callable or the ticket from listening(callback), given {on_step!r}."
            )
        callback = on_step
        jax.debug.callback(
            lambda step, masked: callback(DecodeStep("", int(step), num_steps, int(masked))), step, masked
        )
        return
    stage = on_step.stage

    def dispatch(number: Array, step: Array, masked: Array) -> None:
        listener = _listeners.get(int(number))
        if listener is None or listener.error is not None:
            return
        try:
            listener.callback(DecodeStep(stage, int(step), num_steps, int(masked)))
        except BaseException as error:
            listener.error = error

    # `masked` depends on the step's result, so that the report cannot precede the step.
    jax.debug.callback(dispatch, on_step.listener, step, masked)
