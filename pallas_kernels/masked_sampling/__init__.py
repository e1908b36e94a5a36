"""Sampling of tokens from the hidden states of a masked transformer, without the logits in memory.

The vocabulary is streamed in blocks. Each block gives logits, to which Gumbel noise is added; only the
maximum and the log-sum-exp are kept. `reference` materializes the logits, `xla` is plain JAX, `tpu` and `gpu`
are Pallas.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.dispatch import select
from pallas_kernels.masked_sampling.gumbel import seed_words

__all__ = ["masked_sampling", "mix_guidance", "sample_logits"]

# Temperatures below this count as greedy: the noise no longer changes the argmax.
_MIN_TEMPERATURE = 1e-6

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
    """Samples tokens from softmax(logits / temperature), where logits = hidden @ table.T + bias in float32.

    With guidance s, the logits are (1 + s) times those of `hidden` minus s times those of `uncond_hidden`.
    Because logits are linear in the hidden states, these are mixed instead, at half the cost. A key gives the
    same tokens in every implementation, up to near ties, for any batch size, and the same as `sample_logits`.
    Under a mesh (`jax.set_mesh`), the Pallas implementations shard the rows over it.

    Args:
      hidden: float32 or bfloat16; the table is cast to its dtype.
      table: output embedding of each code.
      bias: of each code.
      key: a key of `jax.random.key`.
      temperature: 0 or greater, may be traced; 0 counts as 1e-6, which is greedy.
      guidance: s, a scalar or one number per sample (batch,), may be traced; requires `uncond_hidden`.
      uncond_hidden: hidden states of the unconditional pass; requires `guidance`.
      implementation: "reference", "xla", "tpu" or "gpu"; by default the variable MUSE_JAX_KERNELS, or else
        the platform's own.

    Returns:
      int32 tokens and their float32 log-probabilities under that softmax.

    Raises:
      ValueError: if shapes disagree, only one of `guidance` and `uncond_hidden` is given, or the
        implementation does not run here.
    """
    _check(hidden, table, bias)
    if (guidance is None) != (uncond_hidden is None):
        raise ValueError("Only one of guidance and uncond_hidden is given: pass both or neither.")
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
    """Samples like `masked_sampling` from an array of logits, with the same noise; rows in raster order."""
    from pallas_kernels.masked_sampling.xla import sample_logits

    rows = logits.reshape(-1, logits.shape[-1])
    token, log_prob = sample_logits(rows, seed_words(key), _positive(temperature))
    return token.reshape(logits.shape[:-1]), log_prob.reshape(logits.shape[:-1])


def mix_guidance(
    cond: Float[Array, "batch n features"],
    uncond: Float[Array, "batch n features"] | None,
    scale: Float[Array, "..."] | float,
) -> Float[Array, "batch n features"]:
    """Guided features (1 + scale) cond - scale uncond, computed in float32, in the dtype of `cond`.

    Args:
      scale: a scalar or one number per sample (batch,).

    Raises:
      ValueError: if the shapes of `cond` and `uncond` differ.
    """
    if uncond is None or uncond.shape != cond.shape:
        raise ValueError(
            f"uncond_hidden has shape {getattr(uncond, 'shape', None)}, but hidden {cond.shape}: "
            "give both passes the same shape."
        )
    scale = jnp.asarray(scale, jnp.float32).reshape(-1, 1, 1)
    mixed = (1 + scale) * cond.astype(jnp.float32) - scale * uncond.astype(jnp.float32)
    return mixed.astype(cond.dtype)


def _positive(temperature: Scalar) -> Float[Array, ""]:
    return jnp.maximum(jnp.asarray(temperature, jnp.float32), _MIN_TEMPERATURE)


def _sample(implementation: str):
    # Pallas is imported on use: its TPU part takes seconds to import and is not needed on CPU.
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
