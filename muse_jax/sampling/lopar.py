"""LoPAR, local parallel autoregression: a fine image redrawn in a few turns (CogView2, section 3.3).

A table gives each token its turn. It is tiled over the grid, so that neighbours have different turns and
tokens of one turn are far enough apart to be drawn together.
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
"""CogView2's turns for images three times as fine; what is negative or 0 is never redrawn."""


def turns_table(factor: int) -> np.ndarray:
    """Turns for images `factor` times as fine, a square of `2 * factor` on a side; for 3, CogView2's `TABLE`.

    The rule for other factors: in row r and column c the turn is `r + c - 1`, and beyond `2 * factor` it
    begins again with 1. The corner is -1, and so is every second place of every second row: these stay as
    they are, about the share that `TABLE` keeps.

    Raises:
      ValueError: a factor below 2.
    """
    if factor < 2:
        raise ValueError(f"factor is {factor}, but super-resolution makes images at least 2 times as fine.")
    if factor == 3:
        return np.array(TABLE)
    side = np.arange(2 * factor)
    turn = side[:, None] + side - 1
    turn = np.where(turn > 2 * factor, turn - 2 * factor, turn)
    return np.where((side[:, None] % 2 == 1) & (side % 2 == 1), -1, turn)


def turns_top_k(count: int) -> tuple[int, ...]:
    """From how many codes each of `count` turns draws; for 6, what CogView2 published.

    The rule for other counts: 40 in the first half of the turns, 20 up to five sixths, 10 after that.
    """
    return tuple(40 if 2 * m <= count else 20 if 6 * m <= 5 * count else 10 for m in range(1, count + 1))


def tile_turns(table: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The turn of every token of `grid`, row by row, the table repeated and cut off at the edges."""
    rows, columns = (np.arange(size) % period for size, period in zip(grid, np.shape(table)))
    return np.asarray(table)[rows[:, None], columns].reshape(-1)


def lopar_decode(
    logits_fn: Callable[[Int[Array, "batch n"]], Float[Array, "batch n codes"]],
    tokens: Int[Array, "batch n"],
    key: Array,
    *,
    turns: np.ndarray,
    mask_id: int,
    top_k: tuple[int, ...] | None = None,
    temperature: Float[Array, ""] | float = 1.0,
    editable: Bool[Array, "batch n"] | None = None,
    on_step: Progress | StepCallback | None = None,
) -> Int[Array, "batch n"]:
    """Redraws an image's tokens in as many passes of the network as there are turns.

    In turn m = 1, 2, .. every editable token whose entry in `turns` is m or more is masked and redrawn, from
    the m-th `top_k` most probable codes. Turn m draws its noise from `jax.random.fold_in(key, m)`.

    Args:
      logits_fn: tokens, `mask_id` where they are masked, to the logits of the codes.
      tokens: of the whole image, for instance of the direct network.
      turns: of each token, as `tile_turns` gives them; static.
      top_k: one size a turn, by default `turns_top_k`; static.
      temperature: 0 is greedy; the published program samples at 1.
      editable: True where tokens may change; all by default. The others condition every turn.
      on_step: as for `masked_decode`.

    Raises:
      ValueError: turns of another size than the tokens, or not one `top_k` a turn.
    """
    turns = np.asarray(turns)
    if turns.shape != jnp.shape(tokens)[1:]:
        raise ValueError(
            f"tokens have shape {jnp.shape(tokens)}, but there are turns for {turns.shape}: tile the table "
            "over the grid of the tokens."
        )
    count = int(turns.max())
    top_k = turns_top_k(count) if top_k is None else top_k
    if len(top_k) != count or min(top_k) < 1:
        raise ValueError(
            f"top_k is {top_k}, but the {count} turns of the table need one size of 1 or more each."
        )
    sizes, order = jnp.asarray(top_k), jnp.broadcast_to(turns, jnp.shape(tokens))
    order = order if editable is None else jnp.where(editable, order, 0)

    def turn(m: Array, tokens: Array) -> Array:
        masked = order >= m
        logits = logits_fn(jnp.where(masked, mask_id, tokens))
        # The most that any turn keeps, of which this one keeps its own: one program for all turns. Noise for
        # every code would take as long as the network.
        best, codes = jax.lax.top_k(logits, min(max(top_k), logits.shape[-1]))
        best = jnp.where(jnp.arange(best.shape[-1]) < sizes[m - 1], best, -jnp.inf)
        rank = gumbel_argmax(jax.random.fold_in(key, m), apply_temperature(best, temperature))
        drawn = jnp.take_along_axis(codes, rank[..., None], axis=-1)[..., 0]
        report_step(on_step, m, count, jnp.sum(order > m))
        return jnp.where(masked, drawn, tokens)

    return jax.lax.fori_loop(1, count + 1, turn, jnp.asarray(tokens, jnp.int32))
