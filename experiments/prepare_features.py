"""Computes the features of a data set with the frozen networks of a task: image tokens and text features.

python -m experiments.prepare_features --config=configs/emoji/base.py --out=data/features/base

Training reads them with --config.data.features=DIR. Every row has `--captions` captions: the plain form and
random forms. With `config.data.text_features="states"` the text encoder's states are stored, and training
does not run the encoder; with "ids" only token ids are stored, which are hundreds of times smaller. Held-out
splits have one row per image, with the plain caption.
"""

from typing import Any

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import apps
from muse_jax.data import load_source, make_loader, write_precomputed
from muse_jax.data.captions import draw_captions
from muse_jax.sharding.partitioning import (
    batch_shards,
    current_mesh,
    make_mesh,
    on_mesh,
    put_batch,
    put_tree,
    tree_shardings,
)
from muse_jax.system import make_task
from muse_jax.systems.token_task import TokenTask
from muse_jax.training import validate_config

OUT = flags.DEFINE_string("out", None, "Folder to write; each split has its own subfolder.")
SPLITS = flags.DEFINE_list("splits", ["train", "heldout_pairs"], "Splits to compute.")
CAPTIONS = flags.DEFINE_integer("captions", 4, "Captions per row of the training split.", lower_bound=1)
VARIANTS = flags.DEFINE_integer(
    "variants",
    1,
    "Rows per image of the training split: 1 stores the original image, more store that number of random "
    "augmentations by config.data.augment.",
    lower_bound=1,
)
BATCH = 64  # images at a time


def main() -> None:
    """Checks the flags and computes the features of each split."""
    if not flags.FLAGS.config or not OUT.value:
        raise ValueError(
            "Give --config=FILE and --out=DIR, for instance configs/emoji/base.py and runs/features/base."
        )
    config = validate_config(flags.FLAGS.config)
    config.data.features = ""
    if VARIANTS.value > 1 and config.data.augment == "none":
        raise ValueError(
            f"--variants={VARIANTS.value} with config.data.augment='none' would store the same tokens "
            "several times: set config.data.augment, for instance to 'flip', or omit --variants."
        )
    task = make_task(config)
    if not isinstance(task, TokenTask):
        raise ValueError(
            f"config.task is {config.task!r}, but only tasks over tokens use features: give another config."
        )
    with on_mesh(make_mesh(config.mesh)):
        for split in SPLITS.value:
            folder, training = f"{OUT.value}/{split}", split == config.data.split
            rows = store(task, split, folder, *((CAPTIONS.value, VARIANTS.value) if training else (1, 1)))
            print(f"{rows} rows of features are in {folder}")


def store(task: TokenTask, split: str, folder: str, captions: int, variants: int) -> int:
    """Writes the features of a split, `variants` rows per image, and returns the number of rows."""
    source = load_source(task.config.data.source, split, task.config.data.data_dir)
    drawn = captions_of(source, split, captions, task.config.seed, variants)
    with tqdm(desc=f"{split}: text") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        texts = task.text_features(drawn, progress)
    texts = {name: array.reshape(-1, captions, *array.shape[1:]) for name, array in texts.items()}
    tokens = image_tokens(task, source, split, variants)
    origins = {key: list(origin) for key, origin in task.origins.items()}
    augment = task.config.data.augment if variants > 1 else "none"
    write_precomputed(folder, {**tokens, **texts}, {"origins": origins, "augment": augment})
    return len(source) * variants


def image_tokens(task: TokenTask, source: Any, split: str, variants: int = 1) -> dict[str, np.ndarray]:
    """Tokens of every image in the source's order; with several `variants`, of that many augmented passes."""
    mesh, data = current_mesh(), task.config.data
    shardings = tree_shardings(task.frozen_shapes()["tokenizers"], mesh)
    frozen = {"tokenizers": put_tree(task.frozen_tokenizers(), shardings)}
    features = jax.jit(task.features)
    shards = batch_shards(mesh)
    batch_size = -(-min(BATCH, len(source)) // shards) * shards
    loader = make_loader(
        source,
        batch_size=batch_size,
        modalities=task.modalities(data.augment if variants > 1 else "none"),
        seed=task.config.seed,
        shuffle=False,
        num_epochs=variants,
        workers=data.workers,
    )
    parts: list[dict[str, np.ndarray]] = []
    for batch in tqdm(loader, desc=f"{split}: tokens", total=-(-len(source) * variants // batch_size)):
        media = put_batch({field: batch[field] for field in task.fields}, mesh)
        tokens = jax.device_get(features(frozen, *(media[field] for field in task.fields)))
        parts.append({name: value[batch["example_mask"]] for name, value in tokens.items()})
    if loader.skipped:
        raise ValueError(f"{split} has {loader.skipped} corrupt images, {loader.corrupt}: remove them.")
    codes = max(tokenizer.module.codebook_size for tokenizer in task.tokenizers.values())
    dtype = np.min_scalar_type(codes - 1)
    return {name: np.concatenate([part[name] for part in parts]).astype(dtype) for name in parts[0]}


def captions_of(source: Any, split: str, count: int, seed: int, variants: int = 1) -> list[str]:
    """`count` captions of every row, in order."""
    captions: list[str] = []
    for row in tqdm(range(len(source) * variants), desc=f"{split}: captions"):
        captions += draw_captions(source[row % len(source)], np.random.default_rng([seed, row]), count)
    return captions


if __name__ == "__main__":
    apps.run(main)
