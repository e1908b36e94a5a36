"""Vector quantization with a learned codebook, its losses and code statistics."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class Quantized:
    """Result of quantization.

    Fields:
      codes: chosen codes with the straight-through gradient, `(..., embed_dim)`.
      ids: their indices, int32 `(...)`, or `(..., groups)` with several codes per position.
      codebook_loss, commitment_loss, entropy_loss: unweighted scalars.
      usage: fraction of the codebook that this batch used, in [0, 1].
      perplexity: exponential of the entropy of the batch's code histogram, in [1, codebook_size].
    """

    codes: Array
    ids: Array
    codebook_loss: Array
    commitment_loss: Array
    entropy_loss: Array
    usage: Array
    perplexity: Array


def squared_distances(
    vectors: Float[Array, "n dim"], codebook: Float[Array, "codes dim"]
) -> Float[Array, "n codes"]:
    """Squared distance `|v - c|^2` of every pair, float32."""
    return (
        jnp.sum(vectors**2, -1, keepdims=True)
        - 2 * jnp.matmul(vectors, codebook.T, precision="highest")
        + jnp.sum(codebook**2, -1)
    )


def entropy_loss(distances: Float[Array, "n codes"], temperature: float) -> Float[Array, ""]:
    """Mean entropy of soft assignments minus the entropy of their mean ("softmax" in MaskGIT's VQGAN).

    The soft assignment of a vector is `softmax(-distances / temperature)`. The loss is low if each assignment
    is confident and the batch uses all codes evenly. Its minimum is `-log(codes)`.
    """
    log_probs = jax.nn.log_softmax(-distances / temperature, axis=-1)
    probs = jnp.exp(log_probs)
    sample_entropy = -jnp.mean(jnp.sum(probs * log_probs, -1))
    mean_probs = jnp.mean(probs, 0)
    mean_entropy = -jnp.sum(mean_probs * jnp.log(mean_probs + 1e-5))
    return sample_entropy - mean_entropy


def code_histogram(
    ids: Int[Array, "..."], codebook_size: int, groups: int = 1
) -> Float[Array, " codes"] | Float[Array, "groups codes"]:
    """Relative frequency of each code in `ids`; one histogram for each of several `groups`, the last axis."""
    if groups == 1:
        return jnp.bincount(ids.reshape(-1), length=codebook_size) / ids.size
    columns = ids.reshape(-1, groups).T
    return jnp.stack([code_histogram(column, codebook_size) for column in columns])


def histogram_statistics(
    histogram: Float[Array, "*groups codes"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Usage and perplexity of a code histogram, averaged over groups.

    Returns:
      the fraction of codes that occur, in [0, 1], and the exponential of the entropy, in [1, codes].
    """
    entropy = -jnp.sum(histogram * jnp.log(histogram + 1e-10), axis=-1)
    return jnp.mean(histogram > 0), jnp.mean(jnp.exp(entropy))


def unit(x: Float[Array, "... dim"]) -> Float[Array, "... dim"]:
    """`x` scaled to unit length along its last axis."""
    return x * jax.lax.rsqrt(jnp.sum(x**2, -1, keepdims=True) + 1e-12)


def restart_dead_codes(
    codebook: Float[Array, "codes dim"], ids: Int[Array, " n"], vectors: Float[Array, "n dim"], key: Array
) -> Float[Array, "codes dim"]:
    """Replaces each code that does not occur in `ids` by a random one of `vectors`.

    Jukebox (Dhariwal et al. 2020, section 3.1) does so by a moving average of the usage. Here it is the usage
    in one batch, which should therefore have several times as many vectors as there are codes.
    """
    used = code_histogram(ids, len(codebook)) > 0
    drawn = vectors[jax.random.randint(key, (len(codebook),), 0, len(vectors))]
    return jnp.where(used[:, None], codebook, drawn)


class VectorQuantizer(nn.Module):
    """Vector quantizer with a learned codebook (van den Oord et al. 2017) and MaskGIT's entropy loss.

    Fields:
      codebook_size: number of codes.
      embed_dim: dimensions of a code.
      normalize: compare unit vectors, with the initial codebook uniform on the sphere (ViT-VQGAN, section
        3.2), which keeps codes of few dimensions in use. Otherwise the codebook starts uniform in
        +-sqrt(3 / codebook_size), as in MaskGIT.
      entropy_temperature: of the soft assignment in the entropy loss.
    """

    codebook_size: int
    embed_dim: int
    normalize: bool = False
    entropy_temperature: float = 0.01

    def setup(self):
        fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
        init = nn.initializers.normal(1.0) if self.normalize else fan_in
        self.codebook = self.param(
            "codebook",
            nn.with_logical_partitioning(init, ("vocab", "embed")),
            (self.codebook_size, self.embed_dim),
            jnp.float32,
        )

    def rows(self) -> Float[Array, "codes dim"]:
        """The codebook, normalized if `normalize`."""
        return unit(self.codebook) if self.normalize else self.codebook

    def __call__(self, vectors: Float[Array, "... dim"]) -> Quantized:
        """Nearest codes of `vectors`, and the training losses."""
        flat = vectors.reshape(-1, self.embed_dim).astype(jnp.float32)
        flat = unit(flat) if self.normalize else flat
        rows = self.rows()
        distances = squared_distances(flat, rows)
        ids = jnp.argmin(distances, -1).astype(jnp.int32)
        chosen = rows[ids]
        stop = jax.lax.stop_gradient
        usage, perplexity = histogram_statistics(code_histogram(ids, self.codebook_size))
        return Quantized(
            codes=(flat + stop(chosen - flat)).reshape(vectors.shape),
            ids=ids.reshape(vectors.shape[:-1]),
            codebook_loss=jnp.mean((chosen - stop(flat)) ** 2),
            commitment_loss=jnp.mean((stop(chosen) - flat) ** 2),
            entropy_loss=entropy_loss(distances, self.entropy_temperature),
            usage=usage,
            perplexity=perplexity,
        )

    def nearest(self, vectors: Float[Array, "... dim"]) -> Int[Array, "..."]:
        """Indices of the nearest codes, int32."""
        flat = vectors.reshape(-1, self.embed_dim).astype(jnp.float32)
        flat = unit(flat) if self.normalize else flat
        ids = jnp.argmin(squared_distances(flat, self.rows()), -1)
        return ids.reshape(vectors.shape[:-1]).astype(jnp.int32)

    def lookup(self, ids: Int[Array, "..."]) -> Float[Array, "... dim"]:
        """Codes with the indices `ids`."""
        return self.rows()[ids]
