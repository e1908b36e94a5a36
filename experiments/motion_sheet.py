"""A sheet of random clips: `python -m experiments.motion_sheet --out=docs/motion.png`."""

import numpy as np
from absl import flags

from experiments import apps
from experiments.image_grid import captioned_grid, check_output, save_image
from muse_jax.data import load_source

_OUT = flags.DEFINE_string("out", "images/motion.png", "Where the sheet goes.")
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Where the motion data is built.")
_SPLIT = flags.DEFINE_string("split", "train", "Which split.")
_CLIPS = flags.DEFINE_integer("clips", 24, "How many clips.", lower_bound=1)
_COLUMNS = flags.DEFINE_integer("columns", 3, "Clips in a row.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Which clips.", lower_bound=0)
_FIELD = flags.DEFINE_enum("field", "video", ["video", "sketch"], "What is shown of each clip.")


def main() -> None:
    """Draws every other frame of the clips, in 256 colours to keep it small."""
    out = check_output(_OUT.value)
    source = load_source("motion/x4", _SPLIT.value, _DATA_DIR.value)
    chosen = np.random.default_rng(_SEED.value).choice(len(source), _CLIPS.value, replace=False)
    records = [source[int(index)] for index in chosen]
    strips = np.stack([np.concatenate(record[_FIELD.value][::2], axis=1) for record in records])
    sheet = captioned_grid(strips, [record["captions"][0] for record in records], _COLUMNS.value)
    save_image(sheet.quantize(256), out)
    print(f"{len(records)} clips are in {out}")


if __name__ == "__main__":
    apps.run(main)
