"""Stores the images of a source and the token ids of their captions as arrays, for fast training.

python -m experiments.prepare_images --source=icons/x2 --size=128 --size=64 --out=runs/icons/images

The command writes OUT/SIZE/SPLIT for each size and split; every task can train on them with
--config.data.source=precomputed:OUT/SIZE. Sources that compose images when they are read, such as icons, are
too slow for fast accelerators.
"""

import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import apps
from muse_jax.data import load_source
from muse_jax.data.captions import draw_captions
from muse_jax.data.precomputed import IMAGES, publish
from muse_jax.media.image import resize

SOURCE = flags.DEFINE_string("source", "icons", "Data source, as in config.data.source.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of built TFDS data.")
SIZES = flags.DEFINE_multi_integer("size", [128], "Sides of the images in pixels.", lower_bound=8)
SPLITS = flags.DEFINE_list("splits", ["train", "heldout_pairs", "heldout_concepts"], "Splits to store.")
CAPTIONS = flags.DEFINE_integer(
    "captions", 4, "Captions per image of the training split; 1: only the plain one.", lower_bound=1
)
WORKERS = flags.DEFINE_integer("workers", os.cpu_count() or 1, "Number of processes.", lower_bound=1)
OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)
_CHUNK = 256  # images that a worker makes at a time

_worker: dict[str, Any] = {}


def main() -> None:
    """Stores every split in every size."""
    from muse_jax.text import load_text_encoder

    tokenize = load_text_encoder("minilm").tokenize
    for split in SPLITS.value:
        source = load_source(SOURCE.value, split, DATA_DIR.value)
        folders = {size: Path(OUT.value) / str(size) / split for size in SIZES.value}
        unfinished = {size: folder.with_name(f"{split}.unfinished") for size, folder in folders.items()}
        for size, folder in unfinished.items():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            shape = (len(source), size, size, 3)
            np.lib.format.open_memmap(folder / f"{IMAGES}.npy", "w+", np.uint8, shape).flush()
        files = {size: str(folder / f"{IMAGES}.npy") for size, folder in unfinished.items()}
        count = CAPTIONS.value if split == "train" else 1
        ids, mask = tokenize(_fill(split, len(source), files, count))
        for size, folder in unfinished.items():
            np.save(folder / "caption_ids.npy", ids.reshape(len(source), count, -1).astype(np.uint16))
            np.save(folder / "caption_mask.npy", mask.reshape(len(source), count, -1))
            publish(folder, folders[size], {"source": SOURCE.value, "text_encoder": "minilm"})
        print(f"{len(source)} images are in {', '.join(map(str, folders.values()))}")


def _fill(split: str, total: int, files: dict[int, str], captions: int) -> list[str]:
    """Writes the images of a split into the file of each size; returns all captions in order."""
    opened = (SOURCE.value, split, DATA_DIR.value, files, captions)
    chunks = [range(start, min(start + _CHUNK, total)) for start in range(0, total, _CHUNK)]
    texts: list[str] = []
    workers = min(WORKERS.value, len(chunks))
    context = multiprocessing.get_context("spawn")
    # An executor, unlike a pool, does not wait forever for a worker that was killed.
    with ProcessPoolExecutor(workers, context, _open, opened) as executor:
        for chunk in tqdm(executor.map(_store, chunks), desc=split, total=len(chunks)):
            texts += chunk
    return texts


def _open(source: str, split: str, data_dir: str, files: dict[int, str], captions: int) -> None:
    _worker["source"] = load_source(source, split, data_dir)
    _worker["files"] = {size: np.load(file, mmap_mode="r+") for size, file in files.items()}
    _worker["captions"] = captions


def _store(rows: range) -> list[str]:
    texts: list[str] = []
    for row in rows:
        record = _worker["source"][row]
        for size, images in _worker["files"].items():
            images[row] = resize(record["image"], size)
        texts += draw_captions(record, np.random.default_rng(row), _worker["captions"])
    return texts


if __name__ == "__main__":
    apps.run(main)
