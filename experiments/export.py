"""Makes a pipeline of trained runs and writes it as a checkpoint for `MusePipeline.from_pretrained`.

python -m experiments.export --base=runs/base --superres=runs/superres --out=muse_jax/checkpoints/emoji

The tokenizers are those that the runs name; --tokenizer and --superres_tokenizer put another run of the same
codes in their place, such as one with a finetuned decoder. Weights are the averaged ones.
"""

from absl import flags

from experiments import apps
from muse_jax.pipelines.runs import load_runs
from muse_jax.weights import DTYPES

BASE = flags.DEFINE_string("base", None, "The workdir of a base run.")
SUPERRES = flags.DEFINE_string(
    "superres", "", "The workdir of a superres run; without it, the base stage alone."
)
TOKENIZER = flags.DEFINE_string("tokenizer", "", "Instead of the base run's tokenizer.")
SUPERRES_TOKENIZER = flags.DEFINE_string("superres_tokenizer", "", "Instead of the superres run's tokenizer.")
OUT = flags.DEFINE_string("out", None, "The directory to write.")
DTYPE = flags.DEFINE_enum("dtype", "float16", sorted(DTYPES), "What weights are stored in.")


def main() -> None:
    """Checks the flags, loads and writes."""
    pipe = load_runs(BASE.value, SUPERRES.value, TOKENIZER.value, SUPERRES_TOKENIZER.value)
    sizes = pipe.save_pretrained(OUT.value, DTYPE.value)
    for name, size in sizes.items():
        print(f"{size / 1e6:8.2f} MB  {name}")
    print(f"{sum(sizes.values()) / 1e6:8.2f} MB  in {OUT.value}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["base", "out"])
    apps.run(main, stopped="Stopped; nothing was written.")
