"""LoPAR, local parallel autoregression: an image's tokens resampled in a few steps (CogView2, section 3.3).

A table assigns each token the last step in which it is resampled. It is tiled over the grid, so that
neighbours have different steps and tokens of one step are far enough apart to be sampled independently.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from muse_jax.sampling.logits import apply_temperature, gumbel_argmax
from muse_jax.sampling.progress import Progress, StepCallback, report_step

TABLE = (
    (-1, 0, 1, 2, 3, 4),
    (0, -1, 2, -1, -2, 5),
    (1, -2, 3, 4, 5, 6),
    (2, 3, 4, 5, -1, 1),
    (3, -1, -2, 0, -1, 2),
    (4, 5, 6, 1, 3, -2),
)
"""CogView2's published table, for images three times as fine; tokens at 0 or below are never resampled."""


def step_table(factor: int) -> np.ndarray:
    """Step table for images `factor` times as fine, `2 * factor` on a side; `TABLE` for factor 3.

    For other factors, the step in row r and column c is `r + c - 1`, wrapped to start again at 1 beyond
    `2 * factor`. The corner and every second token of every second row are -1: they are kept, in about the
    same proportion as in `TABLE`.

    Raises:
      ValueError: if `factor` is below 2.
    """
    if factor < 2:
        raise ValueError(f"factor is {factor}, but super-resolution makes images at least 2 times as fine.")
    if factor == 3:
        return np.array(TABLE)
    side = np.arange(2 * factor)
    step = side[:, None] + side - 1
    step = np.where(step > 2 * factor, step - 2 * factor, step)
    return np.where((side[:, None] % 2 == 1) & (side % 2 == 1), -1, step)


def lopar_top_k(num_steps: int) -> tuple[int, ...]:
    """Top-k of each of `num_steps` steps; the published values for 6.

    For other numbers: 40 in the first half of the steps, 20 up to five sixths, 10 after that.
    """
    steps = range(1, num_steps + 1)
    return tuple(40 if 2 * m <= num_steps else 20 if 6 * m <= 5 * num_steps else 10 for m in steps)


def tile_steps(table: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Steps of all tokens of `grid` in raster order: the table repeated along each axis and cut at the end.

    Raises:
      ValueError: if the table and the grid differ in their number of axes.
    """
    table = np.asarray(table)
    if table.ndim != len(grid):
        raise ValueError(f"A step table of {table.ndim} axes cannot be tiled over the grid {tuple(grid)}.")
    places = (np.arange(size) % period for size, period in zip(grid, table.shape, strict=True))
    return table[np.ix_(*places)].reshape(-1)


def lopar_decode(
    logits_fn: Callable[[Int[Array, "batch n"]], Float[Array, "batch n codes"]],
    tokens: Int[Array, "batch n"],
    key: Array,
    *,
    steps: np.ndarray,
    mask_id: int,
    top_k: tuple[int, ...] | None = None,
    temperature: Float[Array, ""] | float = 1.0,
    editable: Bool[Array, "batch n"] | None = None,
    on_step: Progress | StepCallback | None = None,
) -> Int[Array, "batch n"]:
    """Resamples an image's tokens, with one pass of the network per step.

    Step m = 1, 2, ... masks every editable token whose entry in `steps` is at least m and resamples it from
    the m-th `top_k` most probable codes, with noise from `jax.random.fold_in(key, m)`.

    Args:
      logits_fn: maps tokens, `mask_id` where masked, to logits of the codes.
      tokens: of the whole image, for instance from direct super-resolution.
      steps: last step in which each token is resampled, from `tile_steps`; static.
      top_k: one size per step, `lopar_top_k` by default; static.
      temperature: 0 is greedy; 1 in the published program.
      editable: True where tokens may change, everywhere by default. Other tokens condition every step.
      on_step: as for `masked_decode`.

    Returns:
      int32 tokens.

    Raises:
      ValueError: if `steps` does not have one entry per token, or `top_k` one size per step.
    """
    steps = np.asarray(steps)
    if steps.shape != jnp.shape(tokens)[1:]:
        raise ValueError(
            f"tokens have shape {jnp.shape(tokens)}, but there are steps for {steps.shape}: tile the table "
            "over the grid of the tokens."
        )
    num_steps = int(steps.max())
    top_k = lopar_top_k(num_steps) if top_k is None else top_k
    if len(top_k) != num_steps or min(top_k) < 1:
        raise ValueError(
            f"top_k is {top_k}, but the {num_steps} steps of the table need one size of 1 or more each."
        )
    sizes, last_step = jnp.asarray(top_k), jnp.broadcast_to(steps, jnp.shape(tokens))
    last_step = last_step if editable is None else jnp.where(editable, last_step, 0)

    def step(m: Array, tokens: Array) -> Array:
        masked = last_step >= m
        logits = logits_fn(jnp.where(masked, mask_id, tokens))
        # One program serves all steps: it takes the largest top-k, of which each step keeps its own part.
        # Gumbel noise for every code of the vocabulary would take as long as the network.
        best, codes = jax.lax.top_k(logits, min(max(top_k), logits.shape[-1]))
        best = jnp.where(jnp.arange(best.shape[-1]) < sizes[m - 1], best, -jnp.inf)
        rank = gumbel_argmax(jax.random.fold_in(key, m), apply_temperature(best, temperature))
        sampled = jnp.take_along_axis(codes, rank[..., None], axis=-1)[..., 0]
        report_step(on_step, m, num_steps, jnp.sum(last_step > m))
        return jnp.where(masked, sampled, tokens)

    return jax.lax.fori_loop(1, num_steps + 1, step, jnp.asarray(tokens, jnp.int32))
