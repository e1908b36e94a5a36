"""The source `icons`: images and captions composed from stored drawings on reading."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from muse_jax.data.icons import compose, palette, phrases
from muse_jax.data.icons.compose import Mask
from muse_jax.data.icons.splits import SPLITS

_MASKS = {
    "train": "masks",
    "heldout_concepts": "masks_heldout_concepts",
    "heldout_colours": "masks",
    "heldout_relations": "masks",
    "heldout_counts": "masks",
}
_ART = {
    "train": "art",
    "heldout_pairs": "art_heldout_pairs",
    "heldout_concepts": "art_heldout_concepts",
}


class IconsSource:
    """Random access to composed icons.

    Record `i` is composed from drawing `i % n` of the n drawings of the split with a generator seeded by `i`.
    Reading it again gives the same record, and record `i + n` is another image of the same drawing. The first
    image of a coloured drawing is the drawing itself on white.

    A record has "image" uint8 (128, 128, 3), "captions" (the most complete one first; only that one in splits
    other than "train"), "concept", "name", "kind" ("art", "single", "pair" or "count") and the attributes of
    its kind: "style" or "weight", "background", "foreground", "size", "position", "count", "relation",
    "second_concept", "second_foreground".

    Args:
      builder: the TFDS builder `icons`, already built.
      split: one of `SPLITS`.
      compositions: number of images per drawing, at least 1.
      form: "all", or "art", the coloured drawings alone, of which each has a style.
    """

    fields = ("image",)

    def __init__(self, builder: Any, split: str, compositions: int = 1, form: str = "all"):
        import tensorflow_datasets as tfds

        if split not in SPLITS:
            raise ValueError(f"icons has no split {split!r}: it has {', '.join(SPLITS)}.")
        decoders = {"image": tfds.decode.SkipDecoding()}

        def stored(names: dict[str, str]) -> Any:
            if split not in names:
                return ()
            return _ParsedOnce(builder.as_data_source(names[split], decoders=decoders))

        self.split, self.compositions = split, compositions
        self._masks, self._art = () if form == "art" else stored(_MASKS), stored(_ART)
        self._seed = SPLITS.index(split)

    def __len__(self) -> int:
        return self.compositions * (len(self._masks) + len(self._art))

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        composition, drawing = divmod(index, len(self._masks) + len(self._art))
        rng = np.random.default_rng((self._seed, index))
        if drawing < len(self._masks):
            record = self._composed(self._masks[drawing], rng)
        else:
            record = _art(self._art[drawing - len(self._masks)], composition == 0, rng)
        if self.split != "train":
            record["captions"] = record["captions"][:1]
        record["image"] = np.asarray(record["image"])
        return record

    def _composed(self, stored: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        mask = _mask(stored)
        draw = rng.random()
        trained = self.split == "train"
        if self.split == "heldout_relations" or trained and draw < compose.PAIR_SHARE:
            return self._pair(mask, rng)
        if self.split == "heldout_counts" or trained and draw < compose.PAIR_SHARE + compose.COUNT_SHARE:
            return self._count(mask, rng)
        return compose.compose_single(mask, self._colour(mask.concept, rng), rng)

    def _colour(self, concept: str, rng: np.random.Generator) -> str:
        if self.split == "heldout_colours":
            return compose.heldout_colour(concept)
        colours = compose.trained_colours(concept)
        return colours[int(rng.integers(len(colours)))]

    def _count(self, mask: Mask, rng: np.random.Generator) -> dict[str, Any]:
        while mask.parts > 1:  # copies of a drawing in several parts could not be counted
            mask = self._any_mask(rng)
        count = compose.heldout_count(mask.concept)
        if self.split == "train":
            trained = [other for other in compose.COUNTS if other != count]
            count = trained[int(rng.integers(len(trained)))]
        return compose.compose_count(mask, self._colour(mask.concept, rng), count, rng)

    def _any_mask(self, rng: np.random.Generator) -> Mask:
        return _mask(self._masks[int(rng.integers(len(self._masks)))])

    def _pair(self, first: Mask, rng: np.random.Generator) -> dict[str, Any]:
        second = self._any_mask(rng)
        colour = self._colour(first.concept, rng)
        partners = [
            name
            for name in compose.trained_colours(second.concept)
            if name in palette.PARTNERS_FOR[colour]
            and set(palette.BACKGROUNDS_FOR[name]) & set(palette.BACKGROUNDS_FOR[colour])
        ]
        second_colour = partners[int(rng.integers(len(partners)))]
        relation = self._relation(first.concept, second.concept, rng)
        return compose.compose_pair(first, colour, relation, second, second_colour, rng)

    def _relation(self, first: str, second: str, rng: np.random.Generator) -> str:
        if self.split == "heldout_relations":
            return compose.heldout_relation(first)
        trained = [
            relation
            for relation, inverse in phrases.INVERSE_RELATIONS.items()
            if relation != compose.heldout_relation(first) and inverse != compose.heldout_relation(second)
        ]
        return trained[int(rng.integers(len(trained)))]


class _ParsedOnce:
    """Cache of parsed records, whose images remain encoded (2 kB each)."""

    def __init__(self, records: Sequence[dict[str, Any]]):
        self._records = records
        self._parsed: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._parsed.get(index)
        if record is None:
            record = self._parsed[index] = self._records[index]
        return record


def _decode(stored: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(stored["image"]), formats=("PNG",))


def _mask(stored: dict[str, Any]) -> Mask:
    alpha = _decode(stored).getchannel("A")
    return Mask(
        alpha,
        stored["name"].decode(),
        stored["concept"].decode(),
        stored["style"].decode(),
        int(stored["parts"]),
    )


def _art(stored: dict[str, Any], plain: bool, rng: np.random.Generator) -> dict[str, Any]:
    concept, style = stored["concept"].decode(), stored["style"].decode()
    tags = [tag.decode() for tag in stored["tags"]]
    image = _decode(stored)
    record = compose.compose_art(image, concept, style, tags, plain, rng)
    return {**record, "concept": concept, "name": stored["name"].decode()}
