"""IconEval of a checkpoint, or of the real images: is what the caption says in the image?

    python -m experiments.benchmark.iconeval
    python -m experiments.benchmark.iconeval --model=icons --split=heldout_colours

The first command measures real images, which shows how far the measures can be trusted. Records of one colour
(single icons, pairs, several copies) are taken from each split at random; a model draws their plain captions.
Each row has the shares of images in which background, foreground, size, position, count and relation are
right, over the images whose caption has them, and in which everything is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import apps
from muse_jax.data.icons import SPLITS
from muse_jax.evaluation.iconeval import ATTRIBUTES, icon_eval, sample_records

_MODEL = flags.DEFINE_string(
    "model", None, "A packaged checkpoint or the directory of one; none: real images."
)
_SPLITS = flags.DEFINE_list(
    "split", [split for split in SPLITS if split != "heldout_pairs"], "Splits whose captions are drawn."
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Where the icons data is built.")
_IMAGES = flags.DEFINE_integer("images", 256, "Images of each split.", lower_bound=1)
_SIZE = flags.DEFINE_integer(
    "size", 128, "Side of the real images in pixels.", lower_bound=32, upper_bound=128
)
_BATCH = flags.DEFINE_integer("batch_size", 16, "Images generated at a time.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the records and the images.", lower_bound=0)
_OUT = flags.DEFINE_string("out", None, "JSON file for the figures.")


def main() -> None:
    """Scores each split and prints a table."""
    pipeline = None
    if _MODEL.value:
        from muse_jax.systems.base import load_pipeline

        pipeline = load_pipeline(_MODEL.value)
    columns = (*ATTRIBUTES, "all", "images")
    print("split".ljust(20), *(name.rjust(10) for name in columns), flush=True)
    figures = {}
    for split in _SPLITS.value:
        records = sample_records(split, _IMAGES.value, _SEED.value, _DATA_DIR.value)
        images = real_images(records) if pipeline is None else drawn_images(pipeline, records)
        figures[split] = scores = icon_eval(images, records)
        cells = [f"{scores[name]:.3f}" if name in scores else "-" for name in columns[:-1]]
        print(split.ljust(20), *(cell.rjust(10) for cell in cells), str(len(images)).rjust(10), flush=True)
    if _OUT.value:
        Path(_OUT.value).write_text(json.dumps(figures, indent=1) + "\n")


def real_images(records: list[dict[str, Any]]) -> list[np.ndarray]:
    """The records' own images at --size."""
    from muse_jax.media.image import resize

    return [resize(record["image"], _SIZE.value) for record in records]


def drawn_images(pipeline: Any, records: list[dict[str, Any]]) -> list[np.ndarray]:
    """An image of each record's plain caption."""
    captions = [record["captions"][0] for record in records]
    images: list[np.ndarray] = []
    for start in tqdm(range(0, len(captions), _BATCH.value), desc="draw", unit="batch"):
        prompts = captions[start : start + _BATCH.value]
        padded = prompts + prompts[-1:] * (_BATCH.value - len(prompts))
        images += list(np.asarray(pipeline.generate(padded, seed=_SEED.value + start))[: len(prompts)])
    return images


if __name__ == "__main__":
    apps.run(main)
