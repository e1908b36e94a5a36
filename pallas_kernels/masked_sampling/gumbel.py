"""Counter-based Gumbel noise: a function of a seed, a row and a vocabulary index.

The generator is Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
2011). It uses plain 32-bit integer arithmetic, so that CPU, GPU and TPU compute the same bits, and a block of
the vocabulary its own part of them. One call gives two words. Word `w` of the counter `(row, 128 a + lane)`
belongs to the vocabulary index `256 a + 128 w + lane`: both words are used, each in a vector of 128 lanes.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

LANES = 128
PAIR = 2 * LANES  # vocabulary indices per vector of counters

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def seed_words(key: Array) -> UInt32[Array, "2"]:
    """Key of the generator, from a JAX key of any kind."""
    return jax.random.bits(key, (2,), jnp.uint32)


def threefry_2x32(key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two random uint32 words for each counter; key and counter are pairs of uint32 that broadcast."""
    first, second = key
    keys = (first, second, first ^ second ^ jnp.uint32(_PARITY))
    x, y = counter[0] + first, counter[1] + second
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            x = x + y
            y = x ^ ((y << jnp.uint32(rotation)) | (y >> jnp.uint32(32 - rotation)))
        x = x + keys[(block + 1) % 3]
        y = y + keys[(block + 2) % 3] + jnp.uint32(block + 1)
    return x, y


def gumbel_from_bits(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Gumbel noise -log(-log1p(-u)) for u at the centres of 2^31 equal parts of (0, 1).

    Large noise, which decides a sample, comes from small u, where floats are finest; the maximum is 22.2. The
    largest u are clipped to the last float below 1, so that the noise is finite.
    """
    # By way of int32, which every platform can convert to float.
    uniform = ((bits >> jnp.uint32(1)).astype(jnp.int32).astype(jnp.float32) + 0.5) * 2.0**-31
    return -jnp.log(-jnp.log1p(-jnp.minimum(uniform, 1 - 2.0**-24)))


def gumbel_pair(
    seed: tuple[Array, Array], row: UInt32[Array, "..."], column: UInt32[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Noise of both words of the counters `(row, column)`, which broadcast."""
    first, second = threefry_2x32(seed, (row, column))
    return gumbel_from_bits(first), gumbel_from_bits(second)


def gumbel(seed: UInt32[Array, "2"], rows: int, vocab: int) -> Float[Array, "rows vocab"]:
    """Noise of all rows and vocabulary indices."""
    pairs = -(-vocab // PAIR)
    row = jnp.arange(rows, dtype=jnp.uint32)[:, None, None]
    column = jnp.arange(pairs * LANES, dtype=jnp.uint32).reshape(pairs, LANES)
    words = jnp.stack(gumbel_pair((seed[0], seed[1]), row, column), axis=2)
    return words.reshape(rows, pairs * PAIR)[:, :vocab]
