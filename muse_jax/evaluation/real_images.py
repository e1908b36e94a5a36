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
    provenance: dict[str, Any] | None = None,
) -> Reference:
    """Embeds uint8 images (height, width, 3); images of each size are one compilation.

    Args:
      count: number of images.
      network, resize, blur, weights: as in `generation.Generation`.
      batch_size: images of one device call.
      keep: number of images whose features are stored, for KID and similar metrics.
      provenance: what to note of the source.
    """
    embedder = EMBEDDERS[network]
    sums = FeatureSums(embedder, resize, count, mesh, blur)
    params = put_params(embedder.load(weights), replicated(mesh))
    add = jax.jit(sums.add, donate_argnums=0, out_shardings=(sums.shardings, replicated(mesh)))
    total, kept, there = sums.zeros(), [], 0
    for batch, mask in _batches(images, batch_size):
        total, embedded = add(total, params, *put_rows((batch, mask), mesh))
        if there < keep:
            kept.append(np.asarray(embedded.features)[mask][: keep - there])
            there += len(kept[-1])
    mean, covariance, samples = total.moments.statistics()
    noted = {"network": network, "resize": resize, "blur": blur, "samples": samples, **(provenance or {})}
    return Reference(mean, covariance, np.concatenate(kept), noted)


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
