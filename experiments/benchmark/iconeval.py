"""IconEval of real images, which shows how reliable its measures are.

    python -m experiments.benchmark.iconeval --split=heldout_colours,heldout_relations

The evaluator `iconeval` measures generated images, see `experiments.evaluate`. Each row has, for background,
foreground, size, position, count and relation, the fraction of correct images among those whose caption names
the attribute, and the fraction in which all of them are correct.
"""

from absl import flags

from experiments import apps
from muse_jax.data.icons import SPLITS
from muse_jax.evaluation.iconeval import ATTRIBUTES, icon_eval, sample_records
from muse_jax.media.image import resize

_SPLITS = flags.DEFINE_list(
    "split", [split for split in SPLITS if split != "heldout_pairs"], "Splits to measure."
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the built icons data.")
_IMAGES = flags.DEFINE_integer("images", 256, "Images of each split.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 128, "Side of the images in pixels.", lower_bound=32, upper_bound=128)
_SEED = flags.DEFINE_integer("seed", 0, "Random seed of the selection.", lower_bound=0)


def main() -> None:
    """Scores each split and prints a table."""
    columns = (*ATTRIBUTES, "all", "images")
    print("split".ljust(20), *(name.rjust(10) for name in columns), flush=True)
    for split in _SPLITS.value:
        records = sample_records(split, _IMAGES.value, _SEED.value, _DATA_DIR.value)
        scores = icon_eval([resize(record["image"], _SIZE.value) for record in records], records)
        cells = [f"{scores[name]:.3f}" if name in scores else "-" for name in columns[:-1]]
        print(split.ljust(20), *(cell.rjust(10) for cell in cells), str(len(records)).rjust(10), flush=True)


if __name__ == "__main__":
    apps.run(main)
