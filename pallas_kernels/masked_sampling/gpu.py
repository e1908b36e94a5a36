"""Masked sampling in Pallas for GPU (Triton).

Triton takes a plain `dot` and runs since Ampere; Mosaic GPU, Pallas's other GPU backend, needs explicit
warpgroup products and runs since Hopper. A program holds a block of rows and loops over a part of the
vocabulary. With few rows there are more parts, so that all processors have work; they are merged at the end.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Int, UInt32

from pallas_kernels.masked_sampling.gumbel import LANES, PAIR, gumbel_pair
from pallas_kernels.masked_sampling.online_logsumexp import Running, empty
from pallas_kernels.numerics import NEGATIVE, product
from pallas_kernels.sharding import split_rows

_ROWS = 64
_CODES = LANES  # per word of noise and step
_WIDTH = 64  # part of the hidden state in one product
_WARPS = 8
_PROGRAMS = 512  # enough to keep a large GPU busy


def sample(
    hidden: Float[Array, "rows width"],
    table: Float[Array, "vocab width"],
    bias: Float[Array, " vocab"],
    seed: UInt32[Array, "2"],
    temperature: Float[Array, ""],
    interpret: bool = False,
) -> tuple[Int[Array, " rows"], Float[Array, " rows"]]:
    """Samples as `reference.sample`; device memory holds no logits."""
    one_device = functools.partial(_sample, interpret=interpret)
    return split_rows(one_device, hidden, table, bias, seed, temperature)


def _sample(hidden, first_row, table, bias, seed, temperature, *, interpret):
    rows, pairs = len(hidden), -(-len(table) // PAIR)
    row_blocks = -(-rows // _ROWS)
    parts = min(pairs, max(1, _PROGRAMS // row_blocks))
    more_width = -hidden.shape[1] % _WIDTH
    hidden = jnp.pad(hidden, ((0, -rows % _ROWS), (0, more_width)))
    table = jnp.pad(table, ((0, 0), (0, more_width)))
    shapes = jax.eval_shape(lambda: empty((parts, len(hidden))))
    running = pl.pallas_call(
        functools.partial(_kernel, part_pairs=-(-pairs // parts)),
        grid=(row_blocks, parts),
        in_specs=[
            pl.BlockSpec((3,), lambda i, j: (0,)),
            pl.BlockSpec((1,), lambda i, j: (0,)),
            pl.BlockSpec((_ROWS, hidden.shape[1]), lambda i, j: (i, 0)),
            pl.BlockSpec(table.shape, lambda i, j: (0, 0)),
            pl.BlockSpec(bias.shape, lambda i, j: (0,)),
        ],
        out_specs=[pl.BlockSpec((None, _ROWS), lambda i, j: (j, i))] * 5,
        out_shape=list(shapes),
        compiler_params=plgpu.CompilerParams(num_warps=_WARPS, num_stages=3),
        interpret=interpret,
        name="masked_sampling",
    )(jnp.append(seed, first_row), temperature[None], hidden, table, bias)
    drawn = Running(*running).reduce(0)
    return drawn.token[0, :rows], drawn.log_prob()[0, :rows]


def _kernel(words_ref, temperature_ref, hidden_ref, table_ref, bias_ref, *running_refs, part_pairs):
    i, j = pl.program_id(0), pl.program_id(1)
    seed, inverse = (words_ref[0], words_ref[1]), 1 / temperature_ref[0]
    row = jax.lax.broadcasted_iota(jnp.int32, (_ROWS, _CODES), 0) + i * _ROWS
    row = row.astype(jnp.uint32) + words_ref[2]
    lane = jax.lax.broadcasted_iota(jnp.int32, (_ROWS, _CODES), 1)

    def step(part, running):
        """Takes `_CODES` counters and the two sets of codes that their words belong to."""
        counter = (j * part_pairs * LANES) + part * _CODES
        noises = gumbel_pair(seed, row, (lane + counter).astype(jnp.uint32))
        for word, noise in enumerate(noises):
            first = counter // LANES * PAIR + counter % LANES + word * LANES
            scaled = _logits(hidden_ref, table_ref, bias_ref, first) * inverse
            block = Running(scaled + noise, lane + first, scaled, scaled, jnp.ones_like(scaled))
            running = running.merge(_flat(block.reduce(1)))
        return running

    steps = part_pairs * LANES // _CODES
    running = jax.lax.fori_loop(0, steps, step, empty((_ROWS,)))
    for ref, value in zip(running_refs, running, strict=True):
        ref[...] = value


def _flat(running: Running) -> Running:
    """Reshapes columns to vectors: Triton would replicate a column in every thread of a row."""
    return Running(*(value.reshape(_ROWS) for value in running))


def _logits(hidden_ref, table_ref, bias_ref, first) -> Array:
    """Logits of the rows over `_CODES` codes from `first`, summed over the width; `NEGATIVE` past the end."""
    codes = pl.ds(first, _CODES)
    there = first + jnp.arange(_CODES) < len(bias_ref)

    def step(k, logits):
        piece = pl.ds(k * _WIDTH, _WIDTH)
        table = plgpu.load(table_ref.at[codes, piece], mask=there[:, None], other=0.0)
        return logits + product(hidden_ref[:, piece], table)

    start = jnp.zeros((_ROWS, _CODES), jnp.float32)
    products = jax.lax.fori_loop(0, hidden_ref.shape[1] // _WIDTH, step, start)
    return products + plgpu.load(bias_ref.at[codes], mask=there, other=NEGATIVE)[None, :]
