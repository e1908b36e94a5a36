"""Reference statistics from the images of a data source."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from muse_jax.evaluation.embedders import EMBEDDERS, put_params
from muse_jax.evaluation.embedding import FeatureSums
from muse_jax.evaluation.moments import Moments
from muse_jax.evaluation.reference import Reference
from muse_jax.sharding.partitioning import put_rows, replicated

MAX_GROUPS = 64


def make_reference(
    records: Iterable[Mapping[str, Any]],
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
    per: str = "",
    provenance: dict[str, Any] | None = None,
) -> Reference:
    """Embeds the images of a data source's records; those of each size are one compilation.

    Args:
      records: with "image", uint8 (height, width, 3).
      count: number of records.
      network, resize, blur, weights: as in `generation.Generation`.
      batch_size: images of one device call.
      keep: number of images whose features are stored, for KID and similar metrics.
      keep_images: number of images to store; they must be of one size.
      per: field of the records whose values are groups with statistics of their own; "": none.
      provenance: what to note of the source.

    Raises:
      ValueError: the images to store are of several sizes, or `per` is no field or has too many values.
    """
    stored: list[np.ndarray] = []
    embedder = EMBEDDERS[network]
    # Images that are not resized may be of any size, and so their maps.
    sums = FeatureSums(embedder, resize, count, mesh, blur, bool(embedder.spatial) and resize != "none")
    params = put_params(embedder.load(weights), replicated(mesh))
    add = jax.jit(sums.add, donate_argnums=0, out_shardings=(sums.shardings, replicated(mesh)))
    total, kept, there = sums.zeros(), [], 0
    groups: dict[str, Moments] = {}
    zeros = jax.jit(lambda: Moments.zeros(embedder.dim), out_shardings=sums.shardings.moments)
    update = jax.jit(Moments.update, donate_argnums=0, out_shardings=sums.shardings.moments)
    for group, batch, mask in _batches(_keep(records, keep_images, stored), batch_size, per):
        total, embedded = add(total, params, *put_rows((batch, mask), mesh))
        if per:
            groups[group] = update(groups.get(group) or zeros(), embedded.features, embedded.mask)
            if len(groups) > MAX_GROUPS:
                raise ValueError(
                    f"The field {per!r} has more than {MAX_GROUPS} values, and each needs statistics of its "
                    "own: choose another field."
                )
        if there < keep:
            kept.append(np.asarray(embedded.features)[mask][: keep - there])
            there += len(kept[-1])
    mean, covariance, samples = total.moments.statistics()
    noted = {"network": network, "resize": resize, "blur": blur, "samples": samples, **(provenance or {})}
    if per:
        noted |= {"per": per, "groups": {name: int(group.count) for name, group in groups.items()}}
    spatial = None if total.spatial is None else total.spatial.statistics()[:2]
    few = np.stack(stored) if stored else None
    statistics = {name: group.statistics()[:2] for name, group in groups.items() if int(group.count) > 1}
    return Reference(mean, covariance, np.concatenate(kept), noted, spatial, few, statistics)


def _keep(records: Iterable[Any], count: int, kept: list[np.ndarray]) -> Iterator[Any]:
    """The records, of which the first `count` images are also appended to `kept`."""
    for record in records:
        if len(kept) < count:
            image = record["image"]
            if kept and image.shape != kept[0].shape:
                raise ValueError(
                    f"Images of {kept[0].shape[:2]} and {image.shape[:2]} pixels cannot be stored together: "
                    "store none, or resize them."
                )
            kept.append(image)
        yield record


def _batches(
    records: Iterable[Mapping[str, Any]], batch_size: int, per: str
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Batches of images of one group and size, the last filled up: group, images, which rows are images."""
    waiting: dict[tuple[str, tuple[int, ...]], list[np.ndarray]] = {}
    for record in records:
        kind = group_of(record, per) if per else "", record["image"].shape
        same = waiting.setdefault(kind, [])
        same.append(record["image"])
        if len(same) == batch_size:
            yield kind[0], np.stack(waiting.pop(kind)), np.ones(batch_size, bool)
    for (group, _), same in waiting.items():
        filled = same + same[-1:] * (batch_size - len(same))
        yield group, np.stack(filled), np.arange(batch_size) < len(same)


def group_of(record: Mapping[str, Any], per: str) -> str:
    """Name of a record's group: the value of its field `per`.

    Raises:
      ValueError: the record has no such field.
    """
    if per not in record:
        raise ValueError(
            f"The records have no field {per!r} to make groups by: they have {', '.join(record)}."
        )
    return str(record[per])
