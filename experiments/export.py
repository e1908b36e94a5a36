r"""Makes a pipeline of trained runs and writes it as a checkpoint for its `from_pretrained`.

python -m experiments.export --base=runs/base --superres=runs/superres --out=muse_jax/checkpoints/emoji
python -m experiments.export --coglm=runs/coglm --direct=runs/coglm_direct --iterative=runs/coglm_iterative \
    --out=muse_jax/checkpoints/emoji-cogview2
python -m experiments.export --tokenizer=runs/vqgan64 --out=vqgan64.safetensors

The last form writes the weights of a tokenizer alone. Otherwise the tokenizers are those that the runs name;
--tokenizer and --superres_tokenizer put another run of the same codes in their place, such as one with a
finetuned decoder. Weights are the averaged ones.
"""

from pathlib import Path

from absl import flags

from experiments import apps
from muse_jax.checkpointing.safetensors import DTYPES, weights_to_bytes
from muse_jax.checkpointing.source import tokenizer_params
from muse_jax.systems.cogview2.pipeline import CogView2Pipeline
from muse_jax.systems.muse.pipeline import MusePipeline
from muse_jax.systems.runs import load_cogview2_runs, load_runs

BASE = flags.DEFINE_string("base", "", "Muse: the workdir of a base run.")
COGLM = flags.DEFINE_string("coglm", "", "CogView2: the workdir of a coglm run.")
SUPERRES = flags.DEFINE_string(
    "superres", "", "Muse: the workdir of a superres run; without it, the base stage alone."
)
DIRECT = flags.DEFINE_string("direct", "", "CogView2: the workdir of a direct_superres run.")
ITERATIVE = flags.DEFINE_string("iterative", "", "CogView2: the workdir of an iterative_superres run.")
TOKENIZER = flags.DEFINE_string("tokenizer", "", "Instead of the base or coglm run's tokenizer.")
SUPERRES_TOKENIZER = flags.DEFINE_string("superres_tokenizer", "", "Instead of the superres run's tokenizer.")
OUT = flags.DEFINE_string("out", None, "The directory to write; of a tokenizer alone, the file.")
DTYPE = flags.DEFINE_enum("dtype", "float16", sorted(DTYPES), "What weights are stored in.")


def main() -> None:
    """Checks the flags, loads and writes."""
    if BASE.value and COGLM.value:
        raise ValueError("Give either --base=DIR, for Muse, or --coglm=DIR, for CogView2.")
    if not (BASE.value or COGLM.value):
        write_tokenizer()
        return
    pipe: MusePipeline | CogView2Pipeline
    if COGLM.value:
        if SUPERRES.value or SUPERRES_TOKENIZER.value:
            raise ValueError("--superres and --superres_tokenizer are Muse's: leave them out with --coglm.")
        pipe = load_cogview2_runs(COGLM.value, DIRECT.value, ITERATIVE.value, TOKENIZER.value)
    else:
        if DIRECT.value or ITERATIVE.value:
            raise ValueError("--direct and --iterative are CogView2's: leave them out with --base.")
        pipe = load_runs(BASE.value, SUPERRES.value, TOKENIZER.value, SUPERRES_TOKENIZER.value)
    sizes = pipe.save_pretrained(OUT.value, DTYPE.value)
    for name, size in sizes.items():
        print(f"{size / 1e6:8.2f} MB  {name}")
    print(f"{sum(sizes.values()) / 1e6:8.2f} MB  in {OUT.value}")


def write_tokenizer() -> None:
    """Writes the weights of --tokenizer alone, through a temporary name."""
    if not TOKENIZER.value:
        raise ValueError(
            "Give --base=DIR, for Muse, --coglm=DIR, for CogView2, or --tokenizer=DIR for its weights alone."
        )
    file = Path(OUT.value)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.tmp")
    unfinished.write_bytes(weights_to_bytes(tokenizer_params("tokenizer", TOKENIZER.value), DTYPE.value))
    unfinished.replace(file)
    print(f"{file.stat().st_size / 1e6:8.2f} MB  {file}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["out"])
    apps.run(main, stopped="Stopped; nothing was written.")
