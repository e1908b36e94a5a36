"""Batches drawn ahead of the loop."""

import threading

import numpy as np
import pytest

from muse_jax.sharding.partitioning import current_mesh
from muse_jax.training.prefetch import Prefetch


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


def test_after_the_last_batch_every_call_ends_at_once():
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
