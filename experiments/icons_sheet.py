"""Sheet of random icons with their captions: `python -m experiments.icons_sheet --out=docs/icons.png`."""

import numpy as np
from absl import flags

from experiments import apps
from experiments.image_grid import captioned_grid, check_output, save_image
from muse_jax.data import load_source

_OUT = flags.DEFINE_string("out", "images/icons.png", "Image file to write.")
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the built data set.")
_SPLIT = flags.DEFINE_string("split", "train", "Split to sample from.")
_IMAGES = flags.DEFINE_integer("images", 24, "Number of images.", lower_bound=1)
_COLUMNS = flags.DEFINE_integer("columns", 6, "Number of columns.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Random seed of the selection.", lower_bound=0)


def main() -> None:
    """Makes the sheet, in 256 colours to keep the file small."""
    out = check_output(_OUT.value)
    source = load_source("icons/x4", _SPLIT.value, _DATA_DIR.value)
    chosen = np.random.default_rng(_SEED.value).choice(len(source), _IMAGES.value, replace=False)
    records = [source[int(index)] for index in chosen]
    images = np.stack([record["image"] for record in records])
    sheet = captioned_grid(images, [record["captions"][0] for record in records], _COLUMNS.value)
    save_image(sheet.quantize(256), out)
    print(f"{len(records)} icons are in {out}")


if __name__ == "__main__":
    apps.run(main)
