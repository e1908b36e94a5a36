"""Prefetching of batches to the devices."""

import queue
import threading
from typing import Any

import jax
from jax.sharding import Mesh

from muse_jax.sharding.partitioning import put_batch

PREFETCH = 2  # one batch is being copied while another waits


class Prefetch:
    """Iterator that reads batches from a loader and copies them to the devices in a background thread.

    Args:
      loader: yields batches and has `get_state()`.
      mesh: devices that the batches are laid out on.
      size: maximum number of batches that wait on the devices.
    """

    def __init__(self, loader: Any, mesh: Mesh, size: int = PREFETCH):
        self._loader, self._mesh = loader, mesh
        self._state = loader.get_state()
        self._queue: queue.Queue[tuple[Any, Any]] = queue.Queue(size)
        self._end: BaseException | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        while not self._closed.is_set():
            try:
                with jax.set_mesh(self._mesh):  # each thread has its own
                    item: Any = put_batch(next(self._loader), self._mesh), self._loader.get_state()
            except BaseException as error:  # raised in the consumer's thread
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
          Exception: the loader's own, and the same one again at every later call.
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
        """The loader's state after the last batch returned, whatever was prefetched since."""
        return self._state

    def close(self) -> None:
        """Ends the thread; gives up after ten seconds if the loader blocks it."""
        self._closed.set()
        self._thread.join(10.0)
