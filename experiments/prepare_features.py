"""Computes the features of a data set by the frozen networks of a task: image tokens, and text states or ids.

python -m experiments.prepare_features --config=configs/emoji/base.py --out=data/features/base

Training reads them with --config.data.features=DIR. Every row gets `--captions` captions: the plain form and
draws of the caption template. With `config.data.text_features="states"` the text encoder's states of them are
stored, and training does not run the encoder; with "ids" its token ids are, which are hundreds of times
smaller. Held-out splits have one row an image, with the plain caption.
"""

from typing import Any

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import apps
from muse_jax.data import PLAIN_CAPTIONS, CaptionTemplate, load_source, make_loader, write_precomputed
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

OUT = flags.DEFINE_string("out", None, "Where the features go: one folder a split.")
SPLITS = flags.DEFINE_list("splits", ["train", "heldout_pairs"], "Which splits.")
CAPTIONS = flags.DEFINE_integer("captions", 4, "Captions a row of the training split.", lower_bound=1)
VARIANTS = flags.DEFINE_integer(
    "variants",
    1,
    "Rows an image of the training split: 1 holds the image as it is, more hold it augmented in as many ways "
    "as config.data.augment draws.",
    lower_bound=1,
)
BATCH = 64  # images at a time


def main() -> None:
    """Checks the flags and computes."""
    if not flags.FLAGS.config or not OUT.value:
        raise ValueError(
            "Give --config=FILE and --out=DIR, for instance configs/emoji/base.py and runs/features/base."
        )
    config = validate_config(flags.FLAGS.config)
    config.data.features = ""
    if VARIANTS.value > 1 and config.data.augment == "none":
        raise ValueError(
            f"--variants={VARIANTS.value} with config.data.augment='none' would store the same tokens again: "
            "set config.data.augment, to flip for instance, or leave --variants out."
        )
    task = make_task(config)
    if not isinstance(task, TokenTask):
        raise ValueError(f"config.task is {config.task!r}, but only tasks over tokens read features.")
    with on_mesh(make_mesh(config.mesh)):
        for split in SPLITS.value:
            folder, training = f"{OUT.value}/{split}", split == config.data.split
            rows = store(task, split, folder, *((CAPTIONS.value, VARIANTS.value) if training else (1, 1)))
            print(f"{rows} rows of features are in {folder}")


def store(task: TokenTask, split: str, folder: str, captions: int, variants: int) -> int:
    """Writes the features of a split, all images `variants` times over, into `folder`; returns the rows."""
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
    """Tokens of every image in the source's order, `variants` times over and then augmented each time."""
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
        raise ValueError(f"{split} has {loader.skipped} corrupt images, {loader.corrupt}: take them out.")
    codes = max(tokenizer.module.codebook_size for tokenizer in task.tokenizers.values())
    dtype = np.min_scalar_type(codes - 1)
    return {name: np.concatenate([part[name] for part in parts]).astype(dtype) for name in parts[0]}


def captions_of(source: Any, split: str, count: int, seed: int, variants: int = 1) -> list[str]:
    """`count` captions of every row, row after row: the plain one, then draws."""
    template = CaptionTemplate()
    captions: list[str] = []
    for row in tqdm(range(len(source) * variants), desc=f"{split}: captions"):
        record, rng = source[row % len(source)], np.random.default_rng([seed, row])
        captions += [PLAIN_CAPTIONS(record, rng)] + [template(record, rng) for _ in range(count - 1)]
    return captions


if __name__ == "__main__":
    apps.run(main)
