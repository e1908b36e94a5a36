"""Computes what the frozen parts of a task make of a data set, once: image tokens and text states or pieces.

python -m experiments.prepare_features --config=configs/emoji/base.py --out=data/features/base

Training reads them with --config.data.features=DIR. Every picture gets `--captions` captions: the plain form
and draws of the caption template.
"""

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import apps
from muse_jax.data import PLAIN_CAPTIONS, CaptionTemplate, load_source, make_loader, write_precomputed
from muse_jax.text import encode_captions
from muse_jax.training import validate_config
from muse_jax.training.tasks import CogViewTask, MaskedTask, make_task

OUT = flags.DEFINE_string("out", None, "Where the features go: one folder a split.")
SPLITS = flags.DEFINE_list("splits", ["train", "heldout_pairs"], "Which splits.")
CAPTIONS = flags.DEFINE_integer("captions", 4, "Captions a picture.", lower_bound=1)


def main() -> None:
    """Checks the flags and computes."""
    if not flags.FLAGS.config or not OUT.value:
        raise ValueError(
            "Give --config=FILE and --out=DIR, for instance configs/emoji/base.py and runs/features/base."
        )
    config = validate_config(flags.FLAGS.config)
    config.data.features = ""
    task = make_task(config)
    if not isinstance(task, MaskedTask | CogViewTask):
        raise ValueError(f"config.task is {config.task!r}, but only tasks over tokens read features.")
    for split in SPLITS.value:
        source = load_source(config.data.source, split, config.data.get("data_dir"))
        captions = captions_of(source, split, CAPTIONS.value, config.seed)
        meta = {"tokenizer": config.tokenizer}
        if isinstance(task, MaskedTask):
            texts = text_states(task, captions, split)
            meta |= {"superres_tokenizer": config.superres_tokenizer, "text_encoder": task.text_encoder.name}
        else:
            ids, mask = task.pieces.encode_cut(captions)
            texts = {"caption_ids": ids, "caption_mask": mask}
            meta["text_pieces"] = config.text_pieces
        texts = {name: array.reshape(len(source), -1, *array.shape[1:]) for name, array in texts.items()}
        folder = f"{OUT.value}/{split}"
        write_precomputed(folder, {**image_tokens(task, source, split), **texts}, meta)
        print(f"{len(source)} pictures' features are in {folder}")


def image_tokens(task: MaskedTask | CogViewTask, source, split: str) -> dict[str, np.ndarray]:
    """Tokens of every picture, in the source's order."""
    frozen = {"tokenizers": task.frozen_tokenizers()}
    features = jax.jit(task.features)
    data = task.config.data
    batch_size = min(64, len(source))
    loader = make_loader(
        source,
        batch_size=batch_size,
        image_size=data.image_size,
        shuffle=False,
        num_epochs=1,
        drop_remainder=False,
        workers=data.workers,
    )
    parts: list[dict[str, np.ndarray]] = []
    for batch in tqdm(loader, desc=f"{split}: tokens", total=-(-len(source) // batch_size)):
        # The last batch is padded: one shape, one compilation.
        image = np.resize(batch["image"], (batch_size, *batch["image"].shape[1:]))
        tokens = jax.device_get(features(frozen, image))
        parts.append({name: value[: len(batch["image"])] for name, value in tokens.items()})
    if loader.skipped:
        raise ValueError(f"{split} has {loader.skipped} corrupt pictures, {loader.corrupt}: take them out.")
    return {name: np.concatenate([part[name] for part in parts]).astype(np.uint16) for name in parts[0]}


def captions_of(source, split: str, count: int, seed: int) -> list[str]:
    """`count` captions of every picture, one picture after the other: the plain one, then draws."""
    template = CaptionTemplate()
    captions: list[str] = []
    for index in tqdm(range(len(source)), desc=f"{split}: captions"):
        record, rng = source[index], np.random.default_rng([seed, index])
        captions += [PLAIN_CAPTIONS(record, rng)] + [template(record, rng) for _ in range(count - 1)]
    return captions


def text_states(task: MaskedTask, captions: list[str], split: str) -> dict[str, np.ndarray]:
    """States of the captions, and their mask."""
    with tqdm(desc=f"{split}: text") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        states, mask = encode_captions(task.text_encoder, captions, progress=progress)
    return {"text_states": np.asarray(states), "text_mask": np.asarray(mask)}


if __name__ == "__main__":
    apps.run(main)
