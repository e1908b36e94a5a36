"""Batches on the devices before the loop asks for them."""

import queue
import threading
from typing import Any

import jax
from jax.sharding import Mesh

from muse_jax.sharding.partitioning import put_batch

AHEAD = 2  # one being copied while another waits


class Prefetch:
    """Draws batches from a loader and puts them on the devices in a thread of its own.

    Its state is the loader's after the last batch that was given out, not after those drawn ahead.
    """

    def __init__(self, loader: Any, mesh: Mesh, ahead: int = AHEAD):
        self._loader, self._mesh = loader, mesh
        self._state = loader.get_state()
        self._queue: queue.Queue[tuple[Any, Any]] = queue.Queue(ahead)
        self._end: BaseException | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="prefetch", daemon=True)
        self._thread.start()

    def _draw(self) -> None:
        while not self._closed.is_set():
            try:
                with jax.set_mesh(self._mesh):  # each thread has its own
                    item: Any = put_batch(next(self._loader), self._mesh), self._loader.get_state()
            except BaseException as error:  # the loop's to raise
                item = error, None
            while not self._closed.is_set():
                try:
                    self._queue.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item[0], BaseException):
                return

    def __iter__(self) -> "Prefetch":
        return self

    def __next__(self) -> Any:
        """The next batch.

        Raises:
          whatever the loader raised in its place, and the same at every later call.
        """
        if self._end is not None:
            raise self._end
        batch, state = self._queue.get()
        if isinstance(batch, BaseException):
            self._end = batch
            raise batch
        self._state = state
        return batch

    def get_state(self) -> Any:
        """Where the loader stood after the last batch that was given out."""
        return self._state

    def close(self) -> None:
        """Ends the thread, unless a loader holds it for longer than ten seconds."""
        self._closed.set()
        self._thread.join(10.0)
