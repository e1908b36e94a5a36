"""Features computed before training, bound by content to the networks that made them."""

from collections.abc import Mapping
from typing import Any

from muse_jax.data import PrecomputedSource
from muse_jax.data.precomputed import VARIANT_ARRAYS

Origins = Mapping[str, tuple[str, str]]
"""Config key of each part that makes features -> (its value, a hash of what that names)."""


def check_features(
    source: PrecomputedSource, folder: str, origins: Origins, shapes: Mapping[str, Any]
) -> None:
    """Refuses stored features of other weights or of shapes that the networks cannot read.

    Args:
      source: what `folder` holds for one split.
      folder: `config.data.features`, for the message.
      origins: of the config; `experiments.prepare_features` stored those of its own config.
      shapes: of a batch, by name; the first axis is the batch's.

    Raises:
      ValueError: one sentence that names the first difference.
    """
    again = "compute them again with experiments.prepare_features."
    for name in sorted(set(shapes) - {"index"}):
        if name not in source.arrays:
            raise ValueError(
                f"The features in {folder} lack {name!r}, which this config needs: set "
                f"config.data.text_features to what they hold of captions, or {again}"
            )
        given, wanted = source.arrays[name].shape[1 + (name in VARIANT_ARRAYS) :], shapes[name].shape[1:]
        if given != wanted:
            raise ValueError(
                f"The features in {folder} hold {name} of shape {given} an example, but this config wants "
                f"{wanted}: {again}"
            )
    if "origins" not in source.meta:
        raise ValueError(f"The features in {folder} do not say by which weights they were made: {again}")
    for key, (wanted, content) in origins.items():
        made_by, its_content = source.meta["origins"].get(key, ("", ""))
        if its_content != content:
            raise ValueError(
                f"The features in {folder} were made with config.{key}={made_by!r}, whose content was not "
                f"what {wanted!r} holds now: {again}"
            )


def check_augment(source: PrecomputedSource, folder: str, augment: str) -> None:
    """Refuses an augmentation other than that of the stored features.

    Raises:
      ValueError: one sentence.
    """
    stored = source.meta.get("augment", "none")
    if augment not in ("none", stored):
        raise ValueError(
            f"config.data.augment is {augment!r}, but the features in {folder} are of images augmented by "
            f"{stored!r}: set it to none, or compute them again with experiments.prepare_features --variants."
        )
