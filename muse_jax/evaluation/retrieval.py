"""Retrieval of concepts and styles from generated images of emoji and icons."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from muse_jax.data import CorruptRecordError, load_source
from muse_jax.evaluation.concepts import StyleClassifier, concept_ranks, top_k
from muse_jax.evaluation.evaluators import Context, Evaluator, Report
from muse_jax.evaluation.features import extract_features, extract_style_features
from muse_jax.evaluation.samples import check_generates, generate_images, jit_sample
from muse_jax.media.image import resize

SPLITS = ("train", "heldout_pairs", "heldout_concepts")
SHEET_PAIRS = 32


class Gallery(NamedTuple):
    """Real images of all splits, at one size, and their features.

    `rows` maps a split and the index of a record in it to the row of its image.
    """

    images: np.ndarray
    concepts: np.ndarray
    styles: np.ndarray
    splits: np.ndarray
    rows: dict[tuple[str, int], int]
    features: np.ndarray
    style_features: np.ndarray


class Retrieval(Evaluator):
    """Concept and style of generated images, for data whose records name both (`emoji`, `icons/art`).

    Images are generated for `pairs` (concept, style) pairs of each split, from the plain captions. Concepts
    are ranked by the best cosine similarity of EfficientNet-Lite0 features to the real images of all splits;
    ties count against the image. Styles are recognized by a linear classifier of early feature maps and
    colours, fitted to the real images of the training split. Rows of the table in the details, for each
    split:

      generated: the gallery contains all images, including the real image of the pair.
      floor: the generated images, scored against the captions of other pairs.
      ceiling: a real image of the same concept in another style, against the gallery without that image.
        Pairs without another style are excluded.
    """

    defaults = {"splits": ("train", "heldout_pairs"), "pairs": 256, "seed": 0}

    def __init__(self, name: str, options: Mapping[str, Any], context: Context):
        super().__init__(name, options, context)
        check_generates(name, context)
        if self.options["pairs"] < 2:
            raise self.refuse("pairs", "at least 2")
        if unknown := set(self.options["splits"]) - set(SPLITS):
            raise self.refuse("splits", f"splits of {', '.join(SPLITS)}, without {sorted(unknown)[0]!r}")
        self._sample = jit_sample(context)
        self._gallery: Gallery | None = None

    def __call__(self, params: Any, frozen: Any) -> Report:
        """Generates and scores images of each split."""
        data = self.context.config.data
        if self._gallery is None:
            self._gallery = load_gallery(data.source, data.data_dir, data.image_size)
        gallery, train = self._gallery, self._gallery.splits == "train"
        classifier = StyleClassifier.fit(gallery.style_features[train], gallery.styles[train])
        scores, table, images = {}, {}, {}
        for split in self.options["splits"]:
            rows, generated = self._generate(params, frozen, gallery, split)
            table[split] = rows_of_split(gallery, classifier, rows, generated, self.options["seed"])
            for measure in ("top1", "top5", "style"):
                scores[f"{split}/{measure}"] = table[split]["generated"][measure]
            pairs = np.stack([gallery.images[rows], generated], axis=1)[:SHEET_PAIRS]
            images[split] = pairs.reshape(-1, *generated.shape[1:])
        heldout = {split: gallery.splits == split for split in SPLITS[1:] if split in gallery.splits}
        real = {
            split: classifier.accuracy(gallery.style_features[chosen], gallery.styles[chosen])
            for split, chosen in heldout.items()
        }
        return Report(scores, {"table": table, "style_of_real_images": real}, images)

    def _generate(
        self, params: Any, frozen: Any, gallery: Gallery, split: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the gallery and the images generated for their captions."""
        seed = self.options["seed"] + SPLITS.index(split)
        batches = generate_images(
            self._sample, self.context, params, frozen, split, self.options["pairs"], seed
        )
        indices, images = zip(*batches, strict=True)
        rows = [gallery.rows[split, int(index)] for index in np.concatenate(indices)]
        return np.array(rows), np.concatenate(images)


def load_gallery(source: str, data_dir: str, size: int) -> Gallery:
    """Reads the images of all splits and embeds them.

    Raises:
      ValueError: if the source's records have no `concept` and `style`.
    """
    records: list[tuple[str, dict[str, Any]]] = []
    rows: dict[tuple[str, int], int] = {}
    for split in SPLITS:
        reader = load_source(source, split, data_dir)
        for index in range(len(reader)):
            try:
                record = reader[index]
            except CorruptRecordError:
                continue
            if "concept" not in record or "style" not in record:
                raise ValueError(
                    f"The evaluator 'retrieval' needs the concept and style of each image, but records of "
                    f"{source!r} have {', '.join(sorted(record))}: use 'emoji' or 'icons/art'."
                )
            rows[split, index] = len(records)
            records.append((split, {**record, "image": resize(record["image"], size)}))
    images = np.stack([record["image"] for _, record in records])
    concepts, styles = (np.array([record[key] for _, record in records]) for key in ("concept", "style"))
    splits = np.array([split for split, _ in records])
    features, style_features = extract_features(images), extract_style_features(images)
    return Gallery(images, concepts, styles, splits, rows, features, style_features)


def rows_of_split(
    gallery: Gallery, classifier: StyleClassifier, rows: np.ndarray, generated: np.ndarray, seed: int
) -> dict[str, dict[str, Any]]:
    """Rows `generated`, `floor` and `ceiling` of the table of `Retrieval`.

    Args:
      gallery: real images.
      classifier: of styles.
      rows: row in the gallery of each generated image's caption.
      generated: uint8 (n, height, width, 3).
      seed: for the choice among several other styles.
    """
    features, styles = extract_features(generated), classifier.predict(extract_style_features(generated))
    table = {
        "generated": {**_ranks(gallery, features, rows), "style": _share(styles == gallery.styles[rows])},
    }
    others = np.roll(rows, 1)
    table["floor"] = {**_ranks(gallery, features, others), "style": _share(styles == gallery.styles[others])}
    others = other_styles(gallery, rows, np.random.default_rng(seed))
    if len(others):
        table["ceiling"] = _ranks(gallery, gallery.features[others], others, others.tolist())
    return table


def _ranks(
    gallery: Gallery, features: np.ndarray, rows: np.ndarray, exclude: list[int] | None = None
) -> dict[str, Any]:
    concepts = gallery.concepts.tolist()
    ranks = concept_ranks(features, gallery.concepts[rows].tolist(), gallery.features, concepts, exclude)
    median = float(np.median(ranks)) + 1
    return {"top1": top_k(ranks, 1), "top5": top_k(ranks, 5), "median_rank": median, "count": len(rows)}


def _share(right: np.ndarray) -> float:
    return float(np.mean(right))


def other_styles(gallery: Gallery, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of real images of the same concepts in another style, for those of `rows` that have one."""
    by_concept = defaultdict(list)
    for row, concept in enumerate(gallery.concepts):
        by_concept[concept].append(row)
    others = []
    for row in rows:
        candidates = [
            r for r in by_concept[gallery.concepts[row]] if gallery.styles[r] != gallery.styles[row]
        ]
        if candidates:
            others.append(rng.choice(candidates))
    return np.array(others, int)
