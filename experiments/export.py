r"""Exports trained runs as a pretrained directory, which a pipeline's `from_pretrained` reads.

python -m experiments.export --run=runs/base --run=runs/superres --out=muse_jax/checkpoints/emoji
python -m experiments.export --run=runs/coglm --run=runs/coglm_direct --run=runs/coglm_iterative \
    --out=muse_jax/checkpoints/emoji-cogview2
python -m experiments.export --run=runs/vqgan64 --out=vqgan64.safetensors
python -m experiments.export --run=icons --format=stablehlo --batch_size=4 --out=served/icons

The config of each run determines its system and stage. The tokenizers are those that the runs name;
--tokenizer=KEY=DIR uses another one with the same codes, such as one with a fine-tuned decoder. A run of a
tokenizer is written as one file of weights. The averaged weights are exported.

--format=stablehlo writes the program of `generate` for one number of prompts instead, with the weights and
the file of the text tokenizer: jax.export runs it on a CPU, GPU or TPU without this package. It needs the
extra "serve".
"""

from pathlib import Path

from absl import flags

from experiments import apps
from muse_jax.checkpointing.safetensors import DTYPES, weights_to_bytes
from muse_jax.checkpointing.source import Source, open_source
from muse_jax.systems.serving import save_program

RUN = flags.DEFINE_multi_string("run", [], "The workdir of a run; repeat it for each stage.")
TOKENIZER = flags.DEFINE_multi_string(
    "tokenizer", [], "KEY=DIR: replaces the tokenizer that config.KEY of a run names."
)
FORMAT = flags.DEFINE_enum("format", "pretrained", ["pretrained", "stablehlo"], "What to write.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 1, "Prompts of each call of a StableHLO program.")
OUT = flags.DEFINE_string("out", None, "Directory to write; for a tokenizer, a file.", required=True)
DTYPE = flags.DEFINE_enum("dtype", "float16", sorted(DTYPES), "Type of the stored weights.")


def main() -> None:
    """Checks the flags, loads and writes."""
    sources = [open_source(run, "--run") for run in RUN.value]
    if not sources:
        raise ValueError("Give --run=DIR, the workdir of a run, once for each stage.")
    system = sources[0].system
    for source in sources:
        if source.system.name != system.name:
            raise ValueError(
                f"--run={source.name} is of the system {source.system.name!r}, but --run={sources[0].name} "
                f"is of {system.name!r}: give runs of one system."
            )
    if system.pipeline is None:
        if FORMAT.value == "stablehlo":
            raise ValueError(f"The system {system.name!r} has no pipeline to serve: leave --format out.")
        write_tokenizer(sources[0])
        return
    stages = {stage: source for source in sources for stage in source.stages}
    pipe = system.pipeline.from_sources(stages, tokenizers=dict(map(_parse, TOKENIZER.value)))
    if FORMAT.value == "stablehlo":
        sizes = save_program(pipe, OUT.value, BATCH_SIZE.value, DTYPE.value)
    else:
        sizes = pipe.save_pretrained(OUT.value, DTYPE.value)
    for name, size in sizes.items():
        print(f"{size / 1e6:8.2f} MB  {name}")
    print(f"{sum(sizes.values()) / 1e6:8.2f} MB  in {OUT.value}")


def write_tokenizer(source: Source) -> None:
    """Writes the weights of a tokenizer atomically."""
    file = Path(OUT.value)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.tmp")
    unfinished.write_bytes(weights_to_bytes(source.tokenizer().params, DTYPE.value))
    unfinished.replace(file)
    print(f"{file.stat().st_size / 1e6:8.2f} MB  {file}")


def _parse(text: str) -> tuple[str, str]:
    key, separator, name = text.partition("=")
    if not separator:
        raise ValueError(
            f"--tokenizer={text} has no =: write KEY=DIR, such as tokenizer=runs/vqgan64_decoder."
        )
    return key, name


if __name__ == "__main__":
    apps.run(main, stopped="Stopped; nothing was written.")
