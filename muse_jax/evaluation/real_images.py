"""Reference statistics from the images of a data source."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from muse_jax.evaluation.embedders import EMBEDDERS, put_params
from muse_jax.evaluation.embedding import FeatureSums
from muse_jax.evaluation.reference import Reference
from muse_jax.sharding.partitioning import put_rows, replicated


def make_reference(
    images: Iterator[np.ndarray],
    count: int,
    network: str,
    resize: str,
    mesh: Mesh,
    *,
    blur: int = 0,
    weights: str = "",
    batch_size: int = 32,
    keep: int = 10_000,
    keep_images: int = 0,
    provenance: dict[str, Any] | None = None,
) -> Reference:
    """Embeds uint8 images (height, width, 3); images of each size are one compilation.

    Args:
      count: number of images.
      network, resize, blur, weights: as in `generation.Generation`.
      batch_size: images of one device call.
      keep: number of images whose features are stored, for KID and similar metrics.
      keep_images: number of images to store; they must be of one size.
      provenance: what to note of the source.

    Raises:
      ValueError: the images to store are of several sizes.
    """
    stored: list[np.ndarray] = []
    embedder = EMBEDDERS[network]
    # Images that are not resized may be of any size, and so their maps.
    sums = FeatureSums(embedder, resize, count, mesh, blur, bool(embedder.spatial) and resize != "none")
    params = put_params(embedder.load(weights), replicated(mesh))
    add = jax.jit(sums.add, donate_argnums=0, out_shardings=(sums.shardings, replicated(mesh)))
    total, kept, there = sums.zeros(), [], 0
    for batch, mask in _batches(_keep(images, keep_images, stored), batch_size):
        total, embedded = add(total, params, *put_rows((batch, mask), mesh))
        if there < keep:
            kept.append(np.asarray(embedded.features)[mask][: keep - there])
            there += len(kept[-1])
    mean, covariance, samples = total.moments.statistics()
    noted = {"network": network, "resize": resize, "blur": blur, "samples": samples, **(provenance or {})}
    spatial = None if total.spatial is None else total.spatial.statistics()[:2]
    few = np.stack(stored) if stored else None
    return Reference(mean, covariance, np.concatenate(kept), noted, spatial, few)


def _keep(images: Iterator[np.ndarray], count: int, kept: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The images, of which the first `count` are also appended to `kept`."""
    for image in images:
        if len(kept) < count:
            if kept and image.shape != kept[0].shape:
                raise ValueError(
                    f"Images of {kept[0].shape[:2]} and {image.shape[:2]} pixels cannot be stored together: "
                    "store none, or resize them."
                )
            kept.append(image)
        yield image


def _batches(images: Iterator[np.ndarray], batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of images of one size, the last of each size filled up; and which of their rows are images."""
    waiting: dict[tuple[int, ...], list[np.ndarray]] = {}
    for image in images:
        same = waiting.setdefault(image.shape, [])
        same.append(image)
        if len(same) == batch_size:
            yield np.stack(waiting.pop(image.shape)), np.ones(batch_size, bool)
    for same in waiting.values():
        filled = same + same[-1:] * (batch_size - len(same))
        yield np.stack(filled), np.arange(batch_size) < len(same)
