"""Trains a sentencepiece model for CogLM on the captions of a data set.

python -m experiments.train_text_pieces --source=emoji --pieces=1000 --out=runs/text_pieces/emoji.model

A data set's captions are the plain form and draws of the caption template, `--captions` an image.
"""

import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import apps
from muse_jax.data import PLAIN_CAPTIONS, CaptionTemplate, load_source
from muse_jax.text import train_text_pieces

SOURCE = flags.DEFINE_string("source", "emoji", "The data set, named as in a config's data.source.")
SPLIT = flags.DEFINE_string("split", "train", "Its split.")
PIECES = flags.DEFINE_integer("pieces", 1000, "How many pieces, the unknown one included.", lower_bound=2)
CAPTIONS = flags.DEFINE_integer("captions", 4, "Captions an image.", lower_bound=1)
OUT = flags.DEFINE_string("out", None, "The file to write.", required=True)


def main() -> None:
    """Reads the captions and trains."""
    source, template = load_source(SOURCE.value, SPLIT.value), CaptionTemplate()
    captions: list[str] = []
    for index in tqdm(range(len(source)), desc="captions"):
        record, rng = source[index], np.random.default_rng([0, index])
        captions += [PLAIN_CAPTIONS(record, rng)] + [template(record, rng) for _ in range(CAPTIONS.value - 1)]
    count = train_text_pieces(captions, OUT.value, PIECES.value)
    print(f"{count} pieces of {len(captions)} captions are in {OUT.value}")


if __name__ == "__main__":
    apps.run(main, stopped="Stopped; nothing was written.")
