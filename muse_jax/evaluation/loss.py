"""Scores of single examples, as means over a split."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from muse_jax.evaluation.evaluators import Context, Evaluator, Report
from muse_jax.sharding.partitioning import put_batch, replicated


class Loss(Evaluator):
    """The task's own scores, over at most `config.eval_batches` batches of a split (0: all of it).

    Each example counts once, whatever the batch size, and draws from a key of its own, so that its scores
    depend neither on its batch nor on the mesh.
    """

    defaults = {"split": ""}  # "": config.data.eval_split

    def __init__(self, name: str, options: Mapping[str, Any], context: Context):
        super().__init__(name, options, context)
        self.split = self.options["split"] or context.config.data.eval_split
        self._evaluate = jax.jit(self._evaluate_batch, out_shardings=replicated(context.mesh))

    def evaluate(self, params: Any, frozen: Any, batch: Mapping[str, Any], keys: jax.Array) -> Any:
        """Scores of each example by name, as (sums (b, ...), weights (b,)); traced."""
        return self.context.task.evaluate(params, frozen, batch, keys)

    def summarize(self, scores: dict[str, Any]) -> dict[str, Any]:
        """The scalars to report, from the means over the split."""
        return self.context.task.summarize(scores)

    def _evaluate_batch(self, params: Any, frozen: Any, batch: Mapping[str, Any], key: jax.Array) -> Any:
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(batch["index"])
        there = batch["example_mask"]

        def total(values: jax.Array) -> jax.Array:
            mask = there.reshape(-1, *[1] * (values.ndim - 1))
            return jnp.sum(jnp.where(mask, values, 0).astype(jnp.float32), axis=0)

        return jax.tree.map(total, self.evaluate(params, frozen, batch, keys)), jnp.sum(there)

    def __call__(self, params: Any, frozen: Any) -> Report:
        """Means over the split.

        Raises:
          ValueError: if the split has no example that can be read.
        """
        config, examples = self.context.config, 0
        totals: dict[str, Any] = {}
        for batch in eval_batches(self.context.task, self.split, config.eval_batches):
            batch = put_batch(batch, self.context.mesh)
            sums, count = jax.device_get(self._evaluate(params, frozen, batch, jax.random.key(config.seed)))
            examples += int(count)
            for name, pair in sums.items():
                sum, weight = (np.asarray(part, np.float64) for part in pair)
                before = totals.get(name, (0.0, 0.0))
                totals[name] = before[0] + sum, before[1] + weight
        if not examples:
            raise ValueError(f"The split {self.split!r} has no example that can be read: evaluate another.")
        means = {name: sum / np.maximum(weight, 1) for name, (sum, weight) in totals.items()}
        scores = {name: float(score) for name, score in self.summarize(means).items()}
        return Report(scores, {"split": self.split, "examples": examples})


def eval_batches(task: Any, split: str, limit: int = 0) -> Iterator[dict[str, Any]]:
    """Host batches of one pass over a split, the same at each call; `limit`: batches at most, 0 for all."""
    loader = task.eval_loader(split)
    try:
        yield from itertools.islice(loader, limit or None)
    finally:
        if hasattr(loader, "close"):
            loader.close()
