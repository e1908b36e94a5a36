"""Masked sampling in Pallas for GPU, through Triton.

Of Pallas's two ways to a GPU, Mosaic GPU asks for its own warpgroup products and runs from Hopper on; Triton
takes a plain `dot` and runs from Ampere on. A program holds a block of rows and goes through a part of the
vocabulary; where rows are few there are more parts, so that all processors have work, merged at the end.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Int, UInt32

from pallas_kernels.masked_sampling.noise import LANES, PAIR, gumbel_pair
from pallas_kernels.masked_sampling.reference import multiply
from pallas_kernels.masked_sampling.rows import split_rows
from pallas_kernels.masked_sampling.running import LEAST, Running, nothing

_ROWS = 64
_WIDTH = 64  # of the hidden state that one product takes
_PROGRAMS = 512  # as many as keep a large GPU busy


def sample(
    hidden: Float[Array, "rows width"],
    table: Float[Array, "vocab width"],
    bias: Float[Array, " vocab"],
    seed: UInt32[Array, "2"],
    temperature: Float[Array, ""],
    interpret: bool = False,
) -> tuple[Int[Array, " rows"], Float[Array, " rows"]]:
    """As `reference.sample`; device memory holds no logits."""
    one_device = functools.partial(_sample, interpret=interpret)
    return split_rows(one_device, hidden, table, bias, seed, temperature)


def _sample(hidden, first_row, table, bias, seed, temperature, *, interpret):
    rows, pairs = len(hidden), -(-len(table) // PAIR)
    row_blocks = -(-rows // _ROWS)
    parts = min(pairs, max(1, _PROGRAMS // row_blocks))
    part_pairs = -(-pairs // parts)
    hidden, table, bias = _pad(hidden, table, bias, _ROWS, parts * part_pairs * PAIR, _WIDTH)
    shapes = jax.eval_shape(lambda: nothing((parts, len(hidden))))
    running = pl.pallas_call(
        functools.partial(_kernel, part_pairs=part_pairs),
        grid=(row_blocks, parts),
        in_specs=[
            pl.BlockSpec((3,), lambda i, j: (0,)),
            pl.BlockSpec((1,), lambda i, j: (0,)),
            pl.BlockSpec((_ROWS, hidden.shape[1]), lambda i, j: (i, 0)),
            pl.BlockSpec((part_pairs * PAIR, table.shape[1]), lambda i, j: (j, 0)),
            pl.BlockSpec((part_pairs * PAIR,), lambda i, j: (j,)),
        ],
        out_specs=[pl.BlockSpec((None, _ROWS), lambda i, j: (j, i))] * 5,
        out_shape=list(shapes),
        compiler_params=plgpu.CompilerParams(num_warps=8, num_stages=3),
        interpret=interpret,
    )(jnp.append(seed, first_row), temperature[None], hidden, table, bias)
    drawn = Running(*running).reduce(0)
    return drawn.token[0, :rows], drawn.log_prob()[0, :rows]


def _pad(hidden: Array, table: Array, bias: Array, rows: int, vocab: int, width: int) -> tuple[Array, ...]:
    """All three to multiples of the given sizes; a code that is not there has a bias of `LEAST`."""
    (r, w), v = hidden.shape, len(bias)
    hidden = jnp.pad(hidden, ((0, -r % rows), (0, -w % width)))
    table = jnp.pad(table, ((0, -v % vocab), (0, -w % width)))
    return hidden, table, jnp.pad(bias, (0, -v % vocab), constant_values=LEAST)


def _kernel(words_ref, temperature_ref, hidden_ref, table_ref, bias_ref, *running_refs, part_pairs):
    i, j = pl.program_id(0), pl.program_id(1)
    seed, temperature = (words_ref[0], words_ref[1]), temperature_ref[0]
    row = jax.lax.broadcasted_iota(jnp.int32, (_ROWS, LANES), 0) + i * _ROWS
    row = row.astype(jnp.uint32) + words_ref[2]
    lane = jax.lax.broadcasted_iota(jnp.int32, (_ROWS, LANES), 1)

    def step(pair, running):
        column = lane + (j * part_pairs + pair) * LANES
        for word, noise in enumerate(gumbel_pair(seed, row, column.astype(jnp.uint32))):
            here = pl.ds(pair * PAIR + word * LANES, LANES)
            scaled = (_products(hidden_ref, table_ref, here) + bias_ref[here][None, :]) / temperature
            token = lane + (j * part_pairs + pair) * PAIR + word * LANES
            block = Running(scaled + noise, token, scaled, scaled, jnp.ones_like(scaled))
            running = running.merge(block.reduce(1))
        return running

    running = jax.lax.fori_loop(0, part_pairs, step, nothing((_ROWS, 1)))
    for ref, value in zip(running_refs, running):
        ref[...] = value.reshape(_ROWS)


def _products(hidden_ref, table_ref, codes) -> Array:
    """Logits of the rows over 128 codes, a piece of the width at a time."""

    def step(k, logits):
        piece = pl.ds(k * _WIDTH, _WIDTH)
        return logits + multiply(hidden_ref[:, piece], table_ref[codes, piece])

    return jax.lax.fori_loop(0, hidden_ref.shape[1] // _WIDTH, step, jnp.zeros((_ROWS, LANES), jnp.float32))
