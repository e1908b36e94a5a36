"""Images that a task generates for the captions of a split."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, UInt8

from muse_jax.evaluation.evaluators import Context
from muse_jax.evaluation.loss import eval_batches
from muse_jax.sharding.partitioning import put_batch, replicated

SampleFn = Callable[[Any, Any, Mapping[str, Any], jax.Array], Any]


def check_generates(name: str, context: Context) -> None:
    """Checks that the task generates images.

    Raises:
      ValueError: it does not.
    """
    if getattr(context.task, "sample", None) is None:
        raise ValueError(
            f"The evaluator {name!r} measures generated images, but the task {context.config.task!r} "
            "generates none: remove it from config.evaluators."
        )


def jit_sample(context: Context) -> SampleFn:
    """(params, frozen, host batch, key) -> uint8 images that every process holds whole.

    A task whose `traced` is False, a pipeline, is called as it is.
    """
    if not getattr(context.task, "traced", True):
        return context.task.sample
    sample = jax.jit(context.task.sample, out_shardings=replicated(context.mesh))
    return lambda params, frozen, batch, key: sample(params, frozen, put_batch(batch, context.mesh), key)


def generate_images(
    sample: SampleFn, context: Context, params: Any, frozen: Any, split: str, count: int, seed: int
) -> Iterator[tuple[Int[np.ndarray, " n"], UInt8[np.ndarray, "n height width 3"]]]:
    """Images for the first `count` captions of a split, in the fixed order of evaluation.

    Args:
      sample: from `jit_sample`.
      count: number of images; fewer where the split ends before.
      seed: 0 to 2**32 - 1. Batch n draws from fold_in(key(seed), n).

    Yields:
      For each batch the places of its examples in the data source, and their images.
    """
    left = count
    for number, batch in enumerate(eval_batches(context.task, split)):
        images = sample(params, frozen, batch, jax.random.fold_in(jax.random.key(seed), number))
        index, there = _whole(batch, context)
        index, images = index[there][:left], np.asarray(images)[there][:left]
        left -= len(index)
        yield index, images
        if left == 0:
            return


def _whole(batch: Mapping[str, Any], context: Context) -> tuple[np.ndarray, np.ndarray]:
    """`index` and `example_mask` of all processes' rows."""
    if not getattr(context.task, "traced", True) or jax.process_count() == 1:
        return batch["index"], batch["example_mask"]
    parts = put_batch({name: batch[name] for name in ("index", "example_mask")}, context.mesh)
    gather = jax.jit(lambda parts: parts, out_shardings=replicated(context.mesh))
    whole = jax.device_get(gather(parts))
    return whole["index"], whole["example_mask"]
