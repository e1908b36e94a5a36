"""Trains a sentencepiece model for CogLM on the captions of a data set.

python -m experiments.train_text_pieces --source=emoji --pieces=1000 --out=runs/text_pieces/emoji.model

The captions of each image are the plain form and random forms, `--captions` in all.
"""

import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import apps
from muse_jax.data import load_source
from muse_jax.data.captions import draw_captions
from muse_jax.text import train_text_pieces

SOURCE = flags.DEFINE_string("source", "emoji", "Data source, as in config.data.source.")
SPLIT = flags.DEFINE_string("split", "train", "Split of the source.")
PIECES = flags.DEFINE_integer(
    "pieces", 1000, "Size of the vocabulary, including the unknown piece.", lower_bound=2
)
CAPTIONS = flags.DEFINE_integer("captions", 4, "Captions per image.", lower_bound=1)
OUT = flags.DEFINE_string("out", None, "Model file to write.", required=True)


def main() -> None:
    """Reads the captions and trains the model."""
    source = load_source(SOURCE.value, SPLIT.value)
    captions: list[str] = []
    for index in tqdm(range(len(source)), desc="captions"):
        captions += draw_captions(source[index], np.random.default_rng([0, index]), CAPTIONS.value)
    count = train_text_pieces(captions, OUT.value, PIECES.value)
    print(f"{count} pieces from {len(captions)} captions are in {OUT.value}")


if __name__ == "__main__":
    apps.run(main, stopped="Stopped; nothing was written.")
