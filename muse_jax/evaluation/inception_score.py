"""Inception score (Salimans et al., 2016) from sums that the devices accumulate."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from muse_jax.evaluation.moments import Pair, add_pair, join_pair, split_pair

SPLITS = 10


@struct.dataclass
class ScoreSums:
    """Sums over the samples of each split: of class probabilities p, and of p log p over all classes."""

    count: Float[Array, " splits"]
    probabilities: Pair
    entropies: Pair

    @classmethod
    def zeros(cls, classes: int) -> "ScoreSums":
        """No samples."""
        matrix, vector = jnp.zeros((SPLITS, classes)), jnp.zeros(SPLITS)
        return cls(vector, (matrix, matrix), (vector, vector))

    def update(
        self, logits: Float[Array, "b classes"], place: Int[Array, " b"], mask: Bool[Array, " b"], total: int
    ) -> "ScoreSums":
        """Adds the rows of `logits` where `mask` is True; traced.

        Args:
          place: place of each row among all `total` samples, which decides its split.
        """
        # Split i has the places from i * total // SPLITS on.
        split = ((place + 1) * SPLITS - 1) // total
        member = (split == jnp.arange(SPLITS)[:, None]) & mask
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        p = jnp.exp(log_p)
        entropy = jnp.sum(p * log_p, axis=-1)
        with jax.enable_x64(True):  # sums only: TPUs emulate float64
            rows, p, entropy = (x.astype(jnp.float64) for x in (member, p, entropy))
            probabilities = split_pair(join_pair(self.probabilities) + rows @ p)
            entropies = split_pair(join_pair(self.entropies) + rows @ entropy)
        return ScoreSums(self.count + jnp.sum(member, axis=1), probabilities, entropies)

    def score(self) -> tuple[float, float]:
        """Mean over the splits and standard deviation between them."""
        count, p, entropies = jax.device_get((self.count, self.probabilities, self.entropies))
        there = count > 0
        count, p, entropies = count[there], add_pair(p)[there], add_pair(entropies)[there]
        mean = p / count[:, None]
        marginal = np.sum(mean * np.log(np.maximum(mean, 1e-300)), axis=1)
        scores = np.exp(entropies / count - marginal)
        return float(scores.mean()), float(scores.std())
