"""IconEval: how often a generated icon image has the attributes in its caption.

`icon_measures` measures each image from its pixels, without a network; docs/icons.md states the accuracy of
the measures on real images.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from muse_jax.data import load_source
from muse_jax.evaluation.evaluators import Context, Evaluator, Report
from muse_jax.evaluation.icon_measures import measure, relation
from muse_jax.evaluation.samples import check_generates, generate_images, jit_sample

ATTRIBUTES = ("background", "foreground", "size", "position", "count", "relation")


class IconEval(Evaluator):
    """IconEval of images generated for captions of the data source `icons`.

    It uses the first `images` records of each split that are single icons, pairs or several copies; coloured
    drawings have no attributes to measure. Empty `splits` stand for `config.data.eval_split`.
    """

    defaults = {"splits": (), "images": 256, "seed": 0}

    def __init__(self, name: str, options: Mapping[str, Any], context: Context):
        super().__init__(name, options, context)
        check_generates(name, context)
        if self.options["images"] < 1:
            raise self.refuse("images", "at least 1")
        if context.config.data.source.split("/")[0] != "icons":
            raise ValueError(
                f"The evaluator {name!r} measures the data source 'icons', but config.data.source is "
                f"{context.config.data.source!r}: remove it from config.evaluators."
            )
        self._sample = jit_sample(context)

    def __call__(self, params: Any, frozen: Any) -> Report:
        """Generates and measures images of each split."""
        data = self.context.config.data
        scores: dict[str, float] = {}
        details: dict[str, Any] = {}
        for split in self.options["splits"] or (data.eval_split,):
            source = load_source(data.source, split, data.data_dir)
            images, records = self._generate(params, frozen, split, source)
            details[split] = icon_eval(images, records)
            scores |= {f"{split}/{name}": value for name, value in details[split].items() if name != "images"}
        return Report(scores, {"splits": details})

    def _generate(self, params: Any, frozen: Any, split: str, source: Any) -> tuple[list, list]:
        images: list[np.ndarray] = []
        records: list[dict[str, Any]] = []
        count, seed = self.options["images"], self.options["seed"]
        for batch in generate_images(self._sample, self.context, params, frozen, split, sys.maxsize, seed):
            for index, image in zip(*batch, strict=True):
                record = source[int(index)]
                if record["kind"] != "art" and len(records) < count:
                    images.append(image)
                    records.append(record)
            if len(records) == count:
                return images, records
        raise ValueError(
            f"{split} has {len(records)} images in one colour: set config.evaluators.{self.name}.images to "
            "at most this number."
        )


def score_image(image: UInt8[np.ndarray, "side side 3"], record: Mapping[str, Any]) -> dict[str, bool]:
    """Compares the attributes of an image with those of a composed record, as far as its kind has them.

    Args:
      image: real or generated, of any size.
      record: of the source `icons`, kind "single", "pair" or "count".

    Returns:
      {attribute: whether it is right}. The foreground of a pair is right if both colours are found; its
      relation is right if, in addition, their positions agree with the record.

    Raises:
      ValueError: the record is a coloured drawing.
    """
    kind = record["kind"]
    if kind == "art":
        raise ValueError("a coloured drawing has no attributes to measure: use kinds single, pair and count.")
    found = measure(image)
    regions = {region.foreground: region for region in found.regions}
    right = {"background": found.background == record["background"]}
    if kind == "pair":
        first, second = record["foreground"], record["second_foreground"]
        right["foreground"] = first in regions and second in regions
        right["relation"] = (
            right["foreground"] and relation(regions[first], regions[second]) == record["relation"]
        )
        return right
    right["foreground"] = bool(found.regions) and found.regions[0].foreground == record["foreground"]
    if kind == "count":
        right["count"] = found.count == record["count"]
    else:
        right["size"] = found.size == record["size"]
        right["position"] = found.position == record["position"]
    return right


def icon_eval(
    images: Sequence[UInt8[np.ndarray, "side side 3"]], records: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Share of images with the right value of each attribute that they have, and the number of `images`.

    Raises:
      ValueError: the numbers of images and records differ or are 0.
    """
    if len(images) != len(records) or not len(images):
        raise ValueError(f"{len(images)} images of {len(records)} records: give one image for each record.")
    scores = [score_image(image, record) for image, record in zip(images, records, strict=True)]
    shares = {
        name: float(np.mean([score[name] for score in scores if name in score]))
        for name in ATTRIBUTES
        if any(name in score for score in scores)
    }
    return {**shares, "all": float(np.mean([all(score.values()) for score in scores])), "images": len(images)}


def sample_records(split: str, count: int, seed: int, data_dir: str) -> list[dict[str, Any]]:
    """Random distinct records of icons in one colour.

    Raises:
      ValueError: the split has too few of them.
    """
    source = load_source("icons", split, data_dir)
    records = []
    for index in np.random.default_rng(seed).permutation(len(source)):
        record = source[int(index)]
        if record["kind"] != "art":
            records.append(record)
        if len(records) == count:
            return records
    raise ValueError(
        f"{split} has {len(records)} images in one colour: use --images={len(records)} or fewer."
    )
