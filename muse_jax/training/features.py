"""Checks of precomputed features, which are tied to the content of the networks that made them."""

from collections.abc import Mapping
from typing import Any

from muse_jax.data import PrecomputedSource
from muse_jax.data.precomputed import VARIANT_ARRAYS

Origins = Mapping[str, tuple[str, str]]
"""Config key of each network that makes features -> (its value, a hash of the content)."""


def check_features(
    source: PrecomputedSource, folder: str, origins: Origins, shapes: Mapping[str, Any]
) -> None:
    """Checks that stored features were made by the same weights and have the shapes of a batch.

    Args:
      source: features of one split.
      folder: `config.data.features`, for the message.
      origins: those of the config; `experiments.prepare_features` stored those of its config.
      shapes: shapes of a batch by name; the first axis is that of the batch.

    Raises:
      ValueError: they differ; the message names the first difference.
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
        raise ValueError(f"The features in {folder} have no record of the weights that made them: {again}")
    for key, (wanted, content) in origins.items():
        made_by, its_content = source.meta["origins"].get(key, ("", ""))
        if its_content != content:
            raise ValueError(
                f"The features in {folder} were made with config.{key}={made_by!r}, whose content was not "
                f"what {wanted!r} holds now: {again}"
            )


def check_augment(source: PrecomputedSource, folder: str, augment: str) -> None:
    """Checks that the augmentation is that of the stored features.

    Raises:
      ValueError: it is not.
    """
    stored = source.meta.get("augment", "none")
    if augment not in ("none", stored):
        raise ValueError(
            f"config.data.augment is {augment!r}, but the features in {folder} are of images augmented by "
            f"{stored!r}: set it to none, or compute them again with experiments.prepare_features --variants."
        )
