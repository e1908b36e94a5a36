"""Autoregressive decoding on a grid: in raster order, or the same tokens by wavefronts.

With 3D nearby attention, a token depends on few of those before it. If the input of place (k, i, j), that is
frame, row and column, is the tokens before it along each axis, all that it depends on has a smaller

    t = j + A i + B k,   A = rw + 1,   B = rh A + rw + 1

for a window of radii (rs, rh, rw). All places of one t are therefore sampled at once. For lines along the
axes (axial attention) A = B = 1, and for a window as large as the grid t counts the places in raster order.
Each place draws its noise from `jax.random.fold_in(key, place)`, whatever the order, so that the tokens are
those of raster order.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from muse_jax.sampling.autoregressive import Sampling
from muse_jax.sampling.progress import Progress, StepCallback, report_step

PlacesFn = Callable[[Array, Array, Any], tuple[Array, Any]]
"""(tokens (batch, n), places (m,), cache) -> logits (batch, m, vocab) of the tokens there, new cache."""


def raster_schedule(grid: tuple[int, ...]) -> Int[np.ndarray, "n 1"]:
    """The places of `grid` one after the other."""
    return np.arange(math.prod(grid), dtype=np.int32)[:, None]


def wavefront_schedule(
    grid: tuple[int, ...], windows: Sequence[tuple[int, ...]]
) -> Int[np.ndarray, "steps places"]:
    """The places of each step; steps with fewer places than others are filled up with `prod(grid)`.

    Args:
      grid: sizes of the axes, the last of which is contiguous.
      windows: odd extents of the causal windows, in any of which a place sees others.
    """
    radii = np.minimum(np.array(windows) // 2, np.array(grid) - 1)
    strides = np.ones(len(grid), int)
    for axis in reversed(range(len(grid) - 1)):
        # A place sees one step back along the axis and, in the same window, ahead along the later axes.
        ahead = (radii[:, axis] > 0) * (radii[:, axis + 1 :] @ strides[axis + 1 :])
        strides[axis] = 1 + ahead.max()
    places = np.indices(grid).reshape(len(grid), -1)
    time = strides @ places
    widest = int(np.max(np.bincount(time)))
    schedule = np.full((int(np.max(time)) + 1, widest), places.shape[1], np.int32)
    for t in range(len(schedule)):
        at = np.flatnonzero(time == t)
        schedule[t, : len(at)] = at
    return schedule


def decode_places(
    places_fn: PlacesFn,
    cache: Any,
    tokens: Int[Array, "batch n"],
    drawn: Bool[Array, "batch n"],
    key: Array,
    *,
    schedule: Int[np.ndarray, "steps places"],
    sampling: Sampling,
    on_step: Progress | StepCallback | None = None,
) -> Int[Array, "batch n"]:
    """Samples the tokens where `drawn` is True, in the order of `schedule`.

    Args:
      places_fn: the network at a few places. It is called at every place once, of given tokens too, and may
        get the place n, which stands for none.
      cache: passed to `places_fn` and replaced by what it returns.
      tokens: given tokens; ignored where `drawn`.
      key: a key of `jax.random.key`.
      schedule: the places of each step.
      sampling: how to sample from logits.
      on_step: as for `masked_decode`.

    Returns:
      int32 tokens; those that are not `drawn` are unchanged.

    Raises:
      ValueError: if the shapes of `tokens` and `drawn` differ.
    """
    if jnp.ndim(tokens) != 2 or jnp.shape(drawn) != jnp.shape(tokens):
        raise ValueError(
            f"tokens and drawn must have one shape (batch, n), given {jnp.shape(tokens)} "
            f"and {jnp.shape(drawn)}."
        )
    drawn = jnp.asarray(drawn, bool)
    table = jnp.asarray(schedule)
    step_of = np.zeros(tokens.shape[1] + 1, int)
    step_of[schedule] = np.arange(len(schedule))[:, None]

    def step(t: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
        tokens, cache = state
        places = table[t]
        logits, cache = places_fn(tokens, places, cache)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
        sampled = jax.vmap(sampling, (0, 1), 1)(keys, logits)
        kept = tokens.at[:, places].get(mode="fill", fill_value=0)
        here = drawn.at[:, places].get(mode="fill", fill_value=False)
        tokens = tokens.at[:, places].set(jnp.where(here, sampled, kept), mode="drop")
        # Depends on the new tokens, so that the report cannot precede them.
        left = jnp.sum(drawn & (step_of[:-1] > t) & (tokens >= 0))
        report_step(on_step, t + 1, len(schedule), left)
        return tokens, cache

    start = jnp.where(drawn, 0, jnp.asarray(tokens, jnp.int32))
    return jax.lax.fori_loop(0, len(schedule), step, (start, cache))[0]
