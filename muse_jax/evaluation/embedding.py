"""Embedding of images and accumulation of their features, in one program over a mesh."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, UInt8

from muse_jax.evaluation.embedders import Embedder
from muse_jax.evaluation.inception_score import ScoreSums
from muse_jax.evaluation.moments import Moments
from muse_jax.evaluation.resizing import resize_images
from muse_jax.sharding.partitioning import replicated


@struct.dataclass
class Sums:
    """Sums over the images so far; their size does not depend on the number of images.

    Attributes:
      spatial: moments of the spatial features; None if the sFID is not wanted.
      groups: moments of the images of each group.
    """

    moments: Moments
    scores: ScoreSums
    spatial: Moments | None = None
    groups: dict[str, Moments] = struct.field(default_factory=dict)


@struct.dataclass
class Embedded:
    """Features (b, dim) of a batch, and which of its rows count."""

    features: Float[Array, "b dim"]
    mask: Bool[Array, " b"]


class FeatureSums:
    """Adds batches of images to `Sums` until `num_samples` have been added.

    Args:
      embedder: the feature network.
      resize: see `resizing`.
      num_samples: images beyond this number do not count.
      mesh: the devices.
      blur: see `resizing`.
      spatial: whether to add up the spatial features too.
      groups: names of groups whose moments are added up too.
    """

    def __init__(
        self,
        embedder: Embedder,
        resize: str,
        num_samples: int,
        mesh: Mesh,
        blur: int = 0,
        spatial: bool = False,
        groups: Sequence[str] = (),
    ):
        self.embedder, self.num_samples, self.mesh = embedder, num_samples, mesh
        self.resize, self.blur, self.spatial, self.groups = resize, blur, spatial, tuple(groups)
        whole = replicated(mesh)
        moments = Moments.shardings(embedder.dim, mesh)
        scores = jax.tree.map(lambda _: whole, jax.eval_shape(lambda: ScoreSums.zeros(embedder.classes)))
        self.shardings = Sums(
            moments,
            scores,
            Moments.shardings(embedder.spatial, mesh) if spatial else None,
            dict.fromkeys(self.groups, moments),
        )

    def zeros(self) -> Sums:
        """No images, on the mesh."""
        return jax.jit(self._zeros, out_shardings=self.shardings)()

    def _zeros(self) -> Sums:
        embedder = self.embedder
        spatial = Moments.zeros(embedder.spatial) if self.spatial else None
        groups = {name: Moments.zeros(embedder.dim) for name in self.groups}
        return Sums(Moments.zeros(embedder.dim), ScoreSums.zeros(embedder.classes), spatial, groups)

    def add(
        self,
        sums: Sums,
        params: Any,
        images: UInt8[Array, "b h w 3"],
        mask: Bool[Array, " b"],
        group: Int[Array, " b"] | None = None,
    ) -> tuple[Sums, Embedded]:
        """Adds the images where `mask` is True; traced.

        Args:
          sums: of the images before.
          params: weights of the feature network.
          group: place of each image's group in `groups`, or -1.
        """
        resized = resize_images(images, self.embedder.size, self.resize, self.blur)
        features, logits, *spatial = self.embedder.embed(params, resized)
        # Whole on every device, so that each computes its rows of the scatter in the same order on any mesh.
        whole = replicated(self.mesh)
        features, logits, mask, *spatial = (
            jax.lax.with_sharding_constraint(x, whole) for x in (features, logits, mask, *spatial)
        )
        place = sums.moments.count + jnp.cumsum(mask) - 1
        mask = mask & (place < self.num_samples)
        scores = sums.scores.update(logits, place, mask, self.num_samples)
        added = Sums(
            sums.moments.update(features, mask),
            scores,
            sums.spatial.update(spatial[0], mask) if sums.spatial is not None else None,
            {
                name: sums.groups[name].update(features, mask & (group == place))
                for place, name in enumerate(self.groups)
            },
        )
        return added, Embedded(features, mask)
