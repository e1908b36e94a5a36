"""Online maximum and log-sum-exp over parts of the vocabulary, for sampling from the whole."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.numerics import NEGATIVE


class Running(NamedTuple):
    """Running maximum of logits + noise, and log-sum-exp `peak + log(total)` of the logits.

    All arrays have the same shape, with one sample per entry.
    """

    best: Float[Array, "..."]
    """Maximum of logit + noise."""
    token: Int[Array, "..."]
    logit: Float[Array, "..."]
    """Logit of the maximum, without noise."""
    peak: Float[Array, "..."]
    total: Float[Array, "..."]

    def merge(self, later: "Running") -> "Running":
        """Combines two parts of the vocabulary; ties go to `self`."""
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
        """Combines the parts along `axis`, which is kept with size 1; ties go to the smallest token."""
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
        """Log-probability of the sampled token."""
        return self.logit - (self.peak + jnp.log(self.total))


def empty(shape: tuple[int, ...]) -> Running:
    """Neutral element of `Running.merge`."""
    least = jnp.full(shape, NEGATIVE, jnp.float32)
    return Running(least, jnp.zeros(shape, jnp.int32), least, least, jnp.zeros(shape, jnp.float32))
