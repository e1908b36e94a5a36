"""What is kept of a part of the vocabulary: enough to draw from the whole once all parts are merged."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.numerics import NEGATIVE


class Running(NamedTuple):
    """The winner so far of logits + noise, and the log-sum-exp so far as `peak + log(total)`.

    All arrays have one shape: one draw each.
    """

    best: Float[Array, "..."]
    """Logit + noise of the winner."""
    token: Int[Array, "..."]
    logit: Float[Array, "..."]
    """The winner's logit alone."""
    peak: Float[Array, "..."]
    total: Float[Array, "..."]

    def merge(self, later: "Running") -> "Running":
        """Of both parts; between equals the winner is the one of `self`."""
        wins = later.best > self.best
        peak = jnp.maximum(self.peak, later.peak)
        return Running(
            best=jnp.where(wins, later.best, self.best),
            token=jnp.where(wins, later.token, self.token),
            logit=jnp.where(wins, later.logit, self.logit),
            peak=peak,
            total=self.total * jnp.exp(self.peak - peak) + later.total * jnp.exp(later.peak - peak),
        )

    def reduce(self, axis: int) -> "Running":
        """Merges the draws along `axis`, which stays with length 1; between equals the least token wins."""
        best = jnp.max(self.best, axis, keepdims=True)
        most = jnp.iinfo(jnp.int32).max
        token = jnp.min(jnp.where(self.best == best, self.token, most), axis, keepdims=True)
        peak = jnp.max(self.peak, axis, keepdims=True)
        return Running(
            best=best,
            token=token,
            logit=jnp.max(jnp.where(self.token == token, self.logit, NEGATIVE), axis, keepdims=True),
            peak=peak,
            total=jnp.sum(self.total * jnp.exp(self.peak - peak), axis, keepdims=True),
        )

    def log_prob(self) -> Float[Array, "..."]:
        return self.logit - (self.peak + jnp.log(self.total))


def nothing(shape: tuple[int, ...]) -> Running:
    """Of no part at all."""
    least = jnp.full(shape, NEGATIVE, jnp.float32)
    return Running(least, jnp.zeros(shape, jnp.int32), least, least, jnp.zeros(shape, jnp.float32))
