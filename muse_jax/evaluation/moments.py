"""Mean and covariance of features, accumulated on the devices.

Batches merge by Chan et al. (1979), which keeps the digits that sums of squares lose. The arithmetic is in
float64, since the Fréchet distance takes roots of small eigenvalues; TPUs emulate it. Between calls each
number is kept as the sum of two float32, so that the program around it stays in float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from muse_jax.sharding.partitioning import to_host

Pair = tuple[Float[Array, "..."], Float[Array, "..."]]


@struct.dataclass
class Moments:
    """Number of samples, their mean, and their scatter: the sum of outer products of deviations."""

    count: Int[Array, ""]
    mean: Pair
    scatter: Pair

    @classmethod
    def zeros(cls, dim: int) -> "Moments":
        """No samples of `dim` features."""
        vector, matrix = jnp.zeros(dim), jnp.zeros((dim, dim))
        return cls(jnp.zeros((), jnp.int32), (vector, vector), (matrix, matrix))

    @classmethod
    def shardings(cls, dim: int, mesh: Mesh) -> "Moments":
        """Layout over a mesh: rows of the scatter over all devices where they divide evenly."""
        whole = NamedSharding(mesh, PartitionSpec())
        rows = whole if dim % mesh.size else NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        return cls(whole, (whole, whole), (rows, rows))  # type: ignore[arg-type]

    def update(self, features: Float[Array, "b dim"], mask: Bool[Array, " b"]) -> "Moments":
        """These moments and those of the rows of `features` where `mask` is True; traced.

        With `features` whole on every device, each device computes its own rows of the scatter.
        """
        with jax.enable_x64(True):
            x, there = features.astype(jnp.float64), mask.astype(jnp.float64)[:, None]
            old_count, count = self.count.astype(jnp.float64), jnp.sum(there)
            total = jnp.maximum(old_count + count, 1)
            new_mean = jnp.sum(x * there, axis=0) / jnp.maximum(count, 1)
            centred = (x - new_mean) * there
            shift = new_mean - join_pair(self.mean)
            between = shift[:, None] * shift * (old_count * count / total)
            within = jnp.matmul(centred.T, centred, precision=jax.lax.Precision.HIGHEST)
            scatter = split_pair(join_pair(self.scatter) + within + between)
            mean = split_pair(join_pair(self.mean) + shift * (count / total))
            number = self.count + jnp.sum(mask).astype(jnp.int32)
        return Moments(number, mean, scatter)

    def statistics(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Mean, unbiased covariance and number of samples, float64 numpy; every process must call it.

        Raises:
          ValueError: fewer than two samples.
        """
        count, mean, scatter = to_host((self.count, self.mean, self.scatter))
        if count < 2:
            raise ValueError(f"A covariance needs at least 2 samples, but there are {count}: give more.")
        return add_pair(mean), add_pair(scatter) / (int(count) - 1), int(count)


def join_pair(pair: Pair) -> Any:
    """float64 of a pair; traced, in float64 mode."""
    return pair[0].astype(jnp.float64) + pair[1].astype(jnp.float64)


def split_pair(x: Any) -> Pair:
    """Two float32 whose sum is a float64, to 48 bits; traced, in float64 mode."""
    high = x.astype(jnp.float32)
    return high, (x - high.astype(jnp.float64)).astype(jnp.float32)


def add_pair(pair: Any) -> np.ndarray:
    """float64 numpy of a pair on the host."""
    return np.asarray(pair[0], np.float64) + np.asarray(pair[1], np.float64)
