r"""Converts published weights of others into a pretrained directory, which `load_pipeline` reads.

python -m experiments.convert --from=amused --path=amused-256 --out=checkpoints/amused-256

No PyTorch is needed, and nothing in a file is executed. Tensors that are missing, left over or of another
shape are named. docs/published-weights.md says which files are read.
"""

from absl import flags

from experiments import apps
from muse_jax.checkpointing.safetensors import DTYPES
from muse_jax.system import find_converter

FROM = flags.DEFINE_string("from", None, "Whose layout the files have, such as amused.", required=True)
PATH = flags.DEFINE_string("path", None, "The directory or file to read.", required=True)
OUT = flags.DEFINE_string("out", None, "The directory to write.", required=True)
DTYPE = flags.DEFINE_enum("dtype", "float32", sorted(DTYPES), "Type of the stored weights.")


def main() -> None:
    """Checks the flags, reads and writes."""
    sizes = find_converter(FROM.value)(PATH.value).save_pretrained(OUT.value, DTYPE.value)
    for name, size in sizes.items():
        print(f"{size / 1e6:10.2f} MB  {name}")
    print(f"{sum(sizes.values()) / 1e6:10.2f} MB  in {OUT.value}")


if __name__ == "__main__":
    apps.run(main, stopped="Stopped; nothing was written.")
