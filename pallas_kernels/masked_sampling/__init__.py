"""One decoding step of a masked transformer from its hidden states, without the logits in memory.

The vocabulary is streamed in blocks: each gives its logits, Gumbel noise is added, and what is kept is the
greatest sum and the log-sum-exp. `reference` makes the logits, `xla` is plain JAX, `tpu` and `gpu` Pallas.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.dispatch import select
from pallas_kernels.masked_sampling.gumbel import seed_words

__all__ = ["masked_sampling", "mix_guidance", "sample_logits"]

# Below this a temperature counts as zero: the noise no longer changes which logit is the greatest.
_LEAST_TEMPERATURE = 1e-6

Scalar = Float[Array, ""] | float


def masked_sampling(
    hidden: Float[Array, "batch n width"],
    table: Float[Array, "vocab width"],
    bias: Float[Array, " vocab"],
    key: Array,
    *,
    temperature: Scalar,
    guidance: Float[Array, "..."] | float | None = None,
    uncond_hidden: Float[Array, "batch n width"] | None = None,
    implementation: str | None = None,
) -> tuple[Int[Array, "batch n"], Float[Array, "batch n"]]:
    """Draws tokens from softmax(logits / temperature), where logits = hidden @ table.T + bias in float32.

    With guidance the logits are (1 + s) those of `hidden` - s those of `uncond_hidden`. Logits are linear in
    hidden states, so that these are mixed instead: half the work. One key gives the same tokens in every
    implementation, up to near ties, whatever the batch's size; and those that `sample_logits` draws.

    Args:
      hidden: float32 or bfloat16; the table is cast to its type.
      key: of `jax.random.key`.
      temperature: 0 or greater, may be traced; 0 is taken as 1e-6, which is greedy.
      guidance: s, a scalar or one a sample (batch,), may be traced; given together with `uncond_hidden`.
      implementation: "reference", "xla", "tpu" or "gpu"; by default the variable MUSE_JAX_KERNELS, or else
        the form for the platform. Under a mesh (`jax.set_mesh`) the Pallas forms split the rows over it.

    Returns:
      The tokens, int32, and log p(token) under that softmax, float32.

    Raises:
      ValueError: if shapes disagree, guidance is given by half, or the implementation does not run here.
    """
    _check(hidden, table, bias)
    if (guidance is None) != (uncond_hidden is None):
        raise ValueError("Guidance is given by half: pass guidance and uncond_hidden, or neither.")
    if guidance is not None:
        hidden = mix_guidance(hidden, uncond_hidden, guidance)
    rows = hidden.reshape(-1, hidden.shape[-1])
    token, log_prob = _sample(select(implementation))(
        rows, table.astype(hidden.dtype), bias.astype(jnp.float32), seed_words(key), _positive(temperature)
    )
    return token.reshape(hidden.shape[:2]), log_prob.reshape(hidden.shape[:2])


def sample_logits(
    logits: Float[Array, "... vocab"], key: Array, *, temperature: Scalar
) -> tuple[Int[Array, "..."], Float[Array, "..."]]:
    """The draw of `masked_sampling` from logits that are there, with the same noise; rows in raster order."""
    from pallas_kernels.masked_sampling.xla import sample_logits

    rows = logits.reshape(-1, logits.shape[-1])
    token, log_prob = sample_logits(rows, seed_words(key), _positive(temperature))
    return token.reshape(logits.shape[:-1]), log_prob.reshape(logits.shape[:-1])


def mix_guidance(
    cond: Float[Array, "batch n features"],
    uncond: Float[Array, "batch n features"] | None,
    scale: Float[Array, "..."] | float,
) -> Float[Array, "batch n features"]:
    """(1 + scale) cond - scale uncond, in float32, then in the type of `cond`; scale is () or (batch,)."""
    if uncond is None or uncond.shape != cond.shape:
        raise ValueError(
            f"uncond_hidden has shape {getattr(uncond, 'shape', None)}, but hidden {cond.shape}: "
            "give both passes the same shape."
        )
    scale = jnp.asarray(scale, jnp.float32).reshape(-1, 1, 1)
    mixed = (1 + scale) * cond.astype(jnp.float32) - scale * uncond.astype(jnp.float32)
    return mixed.astype(cond.dtype)


def _positive(temperature: Scalar) -> Float[Array, ""]:
    return jnp.maximum(jnp.asarray(temperature, jnp.float32), _LEAST_TEMPERATURE)


def _sample(implementation: str):
    # Pallas is imported where it is used: its TPU half needs seconds and is useless on a CPU.
    if implementation == "reference":
        from pallas_kernels.masked_sampling.reference import sample
    elif implementation == "xla":
        from pallas_kernels.masked_sampling.xla import sample
    elif implementation == "tpu":
        from pallas_kernels.masked_sampling.tpu import sample
    else:
        from pallas_kernels.masked_sampling.gpu import sample
    return sample


def _check(hidden: Array, table: Array, bias: Array) -> None:
    if hidden.ndim != 3 or table.ndim != 2 or hidden.shape[2] != table.shape[1]:
        raise ValueError(
            f"hidden has shape {hidden.shape} and table {table.shape}, but they must be (batch, n, width) "
            "and (vocab, width)."
        )
    if bias.shape != table.shape[:1]:
        raise ValueError(
            f"bias has shape {bias.shape}, but the table of {table.shape[0]} codes needs {table.shape[:1]}."
        )
