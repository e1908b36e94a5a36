"""Masked sampling in Pallas for TPU (Mosaic).

A block of rows stays in VMEM while the table streams through. Each of 128 lanes has a running maximum and
log-sum-exp of its own, so that a step is elementwise after its matrix product; the lanes are merged once at
the end. Blocks may overhang the arrays, so that nothing is padded in HBM.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int, UInt32

from pallas_kernels.masked_sampling.gumbel import LANES, PAIR, gumbel_pair
from pallas_kernels.masked_sampling.online_logsumexp import Running, empty
from pallas_kernels.numerics import NEGATIVE, product
from pallas_kernels.sharding import split_rows

# Candidates for (rows, vocabulary indices) of a step: the first whose double-buffered blocks fit in _BYTES.
_BLOCKS = ((256, 512), (256, 256), (128, 256))
_BYTES = 6 * 2**20


def sample(
    hidden: Float[Array, "rows width"],
    table: Float[Array, "vocab width"],
    bias: Float[Array, " vocab"],
    seed: UInt32[Array, "2"],
    temperature: Float[Array, ""],
    interpret: bool = False,
) -> tuple[Int[Array, " rows"], Float[Array, " rows"]]:
    """Samples as `reference.sample`; HBM holds no logits."""
    one_device = functools.partial(_sample, interpret=interpret)
    return split_rows(one_device, hidden, table, bias, seed, temperature)


def _blocks(rows: int, width_bytes: int) -> tuple[int, int]:
    fitting = (block for block in _BLOCKS if 2 * sum(block) * width_bytes <= _BYTES)
    block_rows, block_vocab = next(fitting, _BLOCKS[-1])
    return min(block_rows, -(-rows // LANES) * LANES), block_vocab


def _sample(hidden, first_row, table, bias, seed, temperature, *, interpret):
    rows, width = hidden.shape
    block_rows, block_vocab = _blocks(rows, width * hidden.dtype.itemsize)
    out = pl.BlockSpec((1, block_rows), lambda i, j: (0, i))
    token, log_prob = pl.pallas_call(
        functools.partial(_kernel, vocab=len(table)),
        grid=(pl.cdiv(rows, block_rows), pl.cdiv(len(table), block_vocab)),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            pl.BlockSpec(memory_space=pltpu.SMEM),
            pl.BlockSpec((block_rows, width), lambda i, j: (i, 0)),
            pl.BlockSpec((block_vocab, width), lambda i, j: (j, 0)),
            pl.BlockSpec((1, block_vocab), lambda i, j: (0, j)),
        ],
        out_specs=[out, out],
        out_shape=[jax.ShapeDtypeStruct((1, rows), dtype) for dtype in (jnp.int32, jnp.float32)],
        scratch_shapes=[pltpu.VMEM(x.shape, x.dtype) for x in _running_shapes(block_rows)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
    )(jnp.append(seed, first_row), temperature[None], hidden, table, bias[None])
    return token[0], log_prob[0]


def _running_shapes(rows: int) -> Running:
    return jax.eval_shape(lambda: empty((rows, LANES)))


def _kernel(
    words_ref,
    temperature_ref,
    hidden_ref,
    table_ref,
    bias_ref,
    token_ref,
    log_prob_ref,
    *running_refs,
    vocab,
):
    i, j = pl.program_id(0), pl.program_id(1)
    rows, codes = hidden_ref.shape[0], table_ref.shape[0]

    @pl.when(j == 0)
    def _():
        for ref, value in zip(running_refs, empty((rows, LANES)), strict=True):
            ref[...] = value

    scaled = (product(hidden_ref[...], table_ref[...]) + bias_ref[...]) / temperature_ref[0]
    if vocab % codes:
        code = jax.lax.broadcasted_iota(jnp.int32, scaled.shape, 1) + j * codes
        scaled = jnp.where(code < vocab, scaled, NEGATIVE)
    # Signed at first, because not every compiler supports unsigned iotas.
    row = jax.lax.broadcasted_iota(jnp.int32, (rows, LANES), 0) + i * rows
    lane = jax.lax.broadcasted_iota(jnp.int32, (rows, LANES), 1)
    block = _draw_lanes(words_ref, scaled, row, lane, j * codes)
    running = Running(*(ref[...] for ref in running_refs)).merge(block)
    for ref, value in zip(running_refs, running, strict=True):
        ref[...] = value

    @pl.when(j == pl.num_programs(1) - 1)
    def _():
        # Transposed, so that the result lies along lanes, as in HBM.
        drawn = Running(*(value.T for value in running)).reduce(0)
        token_ref[...] = drawn.token
        log_prob_ref[...] = drawn.log_prob()


def _draw_lanes(words_ref, scaled: Array, row: Array, lane: Array, start: Array) -> Running:
    """Reduces a block of scaled logits, whose first vocabulary index is `start`, to one entry per lane."""
    seed = words_ref[0], words_ref[1]
    row = row.astype(jnp.uint32) + words_ref[2]
    logits, winners = [], empty(lane.shape)
    for pair in range(scaled.shape[1] // PAIR):
        column = lane + (start // 2 + pair * LANES)
        for word, noise in enumerate(gumbel_pair(seed, row, column.astype(jnp.uint32))):
            offset = pair * PAIR + word * LANES
            logit = scaled[:, offset : offset + LANES]
            noisy = logit + noise
            wins = noisy > winners.best
            winners = winners._replace(
                best=jnp.where(wins, noisy, winners.best),
                token=jnp.where(wins, lane + (start + offset), winners.token),
                logit=jnp.where(wins, logit, winners.logit),
                peak=jnp.maximum(winners.peak, logit),
            )
            logits.append(logit)
    terms = [jnp.exp(logit - winners.peak) for logit in logits]
    return winners._replace(total=functools.reduce(jnp.add, terms))
