"""Draws one sheet with NUWA's eight tasks: what was given and what was generated, frame by frame.

python -m experiments.nuwa_sheet --model=motion --data_dir=data --out=docs/nuwa.png

The inputs are two clips of a split of the motion data that the checkpoint was not trained on.
"""

import numpy as np
from absl import flags

from experiments import apps
from experiments.image_grid import captioned_grid, check_output, save_image
from experiments.nuwa_tasks import run_tasks, strip

_MODEL = flags.DEFINE_string("model", "motion", "A checkpoint of NUWA that reads sketches, or a run.")
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of built TFDS data.")
_SPLIT = flags.DEFINE_string("split", "heldout_pairs", "Split of the motion data.")
_INDICES = flags.DEFINE_list("indices", ["3", "60"], "Two records: a clip, and the caption of edits.")
_SEED = flags.DEFINE_integer("seed", 0, "Random seed.")
_OUT = flags.DEFINE_string("out", None, "PNG file to write.", required=True)


def main() -> None:
    """Generates and writes."""
    out = check_output(_OUT.value)
    from muse_jax import load_pipeline
    from muse_jax.data import load_source

    pipe = load_pipeline(_MODEL.value)
    source = load_source("motion", _SPLIT.value, _DATA_DIR.value)
    record, other = (source[int(index)] for index in _INDICES.value)
    tasks = run_tasks(pipe, record, other["captions"][0], _SEED.value)
    strips = np.stack([strip(task) for task in tasks])
    save_image(captioned_grid(strips, [task.name for task in tasks], 2), out)
    print(f"Written to {out}")


if __name__ == "__main__":
    apps.run(main, stopped="Stopped; nothing was written.")
