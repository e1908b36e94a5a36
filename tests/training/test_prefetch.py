"""Batches are prefetched, and the loader's state is that of the batches returned."""

import threading
import time

import jax
import numpy as np
import pytest

from muse_jax.sharding.partitioning import current_mesh, make_mesh
from muse_jax.training.prefetch import Prefetch
from tests.training.least_squares import Loader


class Two:
    """A loader of two batches."""

    def __init__(self):
        self.drawn = 0

    def __next__(self):
        if self.drawn == 2:
            raise StopIteration
        self.drawn += 1
        return {"x": np.full((2, 1), self.drawn)}

    def get_state(self):
        return self.drawn


def test_every_call_after_the_last_batch_raises():
    batches = Prefetch(Two(), current_mesh())
    assert [int(batch["x"][0, 0]) for batch in batches] == [1, 2]
    ended = []

    def call():
        with pytest.raises(StopIteration):
            next(batches)
        ended.append(True)

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    caller.join(10)
    assert ended == [True] and batches.get_state() == 2
    batches.close()


def test_the_state_is_that_of_the_last_batch_returned():
    loader = Loader(8, 0)
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    batches = Prefetch(loader, mesh)
    assert batches.get_state()["position"] == 0
    drawn = [next(batches) for _ in range(3)]
    while loader.position < 5:  # it prefetches two
        time.sleep(0.01)
    assert batches.get_state()["position"] == 3
    batches.close()
    other = Loader(8, 0)
    for batch in drawn:
        np.testing.assert_array_equal(batch["x"], next(other)["x"])
