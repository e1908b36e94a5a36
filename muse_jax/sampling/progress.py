"""Telling the host how far a compiled decoding loop is, without compiling it again for every listener."""

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
    """What a listener hears after a step: `step` of 1 to `num_steps`; `masked` tokens are left in all."""

    stage: str
    step: int
    num_steps: int
    masked: int


StepCallback = Callable[[DecodeStep], None]


@struct.dataclass
class Progress:
    """A ticket for a listener: a pytree to pass through `jit`.

    The listener's number is traced, so that one compiled program serves every listener; 0 is nobody.
    `stage` is static and names the loop.
    """

    listener: Int[Array, ""]
    stage: str = struct.field(pytree_node=False, default="")

    def at(self, stage: str) -> "Progress":
        """The same listener, told that the steps belong to `stage`."""
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
    """A ticket that nobody listens to, for the program compiled with progress."""
    return Progress(listener=jnp.int32(0))


@contextlib.contextmanager
def listening(callback: StepCallback | None) -> Iterator[Progress]:
    """Call `callback(DecodeStep)` on the host for the steps of the loops that get the yielded ticket.

    Steps may come in late but all have come when the block ends. An exception in `callback` does not disturb
    the device's work: it is raised at the end of the block, and the callback is not called again.
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
    """Loops traced in this block report to nobody, as GPUs that are only described have no host to tell."""
    token = _reporting.set(False)
    try:
        yield
    finally:
        _reporting.reset(token)


def report_step(
    on_step: "Progress | StepCallback | None", step: Array, num_steps: int, masked: Int[Array, ""]
) -> None:
    """Inside a traced loop: tell `on_step` that `step` steps are done. None adds nothing to the program."""
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

    # `masked` comes from the step's result: the host hears of a step after it, not before.
    jax.debug.callback(dispatch, on_step.listener, step, masked)
