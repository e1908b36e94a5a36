r"""Converts published weights of others into a pretrained directory, which `load_pipeline` reads.

python -m experiments.convert --from=amused --path=amused-256 --out=checkpoints/amused-256
python -m experiments.convert --from=t5 --path=t5-v1_1-xl --check

No PyTorch is needed, and nothing in a file is executed. Tensors that are missing, left over or of another
shape are named. With --check nothing is written: the files are read, and what they hold is said. T5 is only
checked, since it is read as it is. docs/published-weights.md says which files are read.
"""

from typing import Any

import jax
from absl import flags

from experiments import apps
from muse_jax.checkpointing.safetensors import DTYPES
from muse_jax.system import find_converter
from muse_jax.text.encoder import describe_t5

FROM = flags.DEFINE_string("from", None, "Whose layout the files have, such as amused.", required=True)
PATH = flags.DEFINE_string("path", None, "The directory or file to read.", required=True)
OUT = flags.DEFINE_string("out", "", "The directory to write.")
CHECK = flags.DEFINE_bool("check", False, "Say what the files hold, and write nothing.")
DTYPE = flags.DEFINE_enum("dtype", "float32", sorted(DTYPES), "Type of the stored weights.")


def main() -> None:
    """Checks the flags, reads and writes."""
    if CHECK.value == bool(OUT.value):
        raise ValueError("Give either --out=DIR, to write there, or --check.")
    if FROM.value == "t5":
        if OUT.value:
            raise ValueError(f"T5 is read as it is: set config.data.text_encoder to t5:{PATH.value}.")
        print("\n".join(describe_t5(PATH.value)))
        return
    converted = find_converter(FROM.value)(PATH.value)
    if CHECK.value:
        print("\n".join(describe(converted)))
        return
    sizes = converted.save_pretrained(OUT.value, DTYPE.value)
    for name, size in sizes.items():
        print(f"{size / 1e6:10.2f} MB  {name}")
    print(f"{sum(sizes.values()) / 1e6:10.2f} MB  in {OUT.value}")


def describe(converted: Any) -> list[str]:
    """The parts of what was read, a line each."""
    weights = converted.weights()
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in weights.items()}
    parts = [f"{name}: {count / 1e6:.1f}M parameters" for name, count in counts.items()]
    return [type(converted).__name__, *parts]


if __name__ == "__main__":
    apps.run(main, stopped="Stopped; nothing was written.")
