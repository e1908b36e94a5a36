"""Paper-size configs made small enough for a CPU.

Only sizes shrink: the task, optimizer, discriminator, text encoder, remat, scans and dtypes stay as the
config file has them. A launch is the real command on the real file, with overrides of sizes, in a directory
that holds small stand-ins for the files that the config names.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn
from PIL import Image

from muse_jax.checkpointing.run_config import save_config
from muse_jax.checkpointing.source import open_source
from muse_jax.system import make_task
from muse_jax.text import train_text_pieces
from muse_jax.tokenizers import cluster_codebook, codebook_rows
from muse_jax.tokenizers.clusters import FILE
from muse_jax.training import validate_config
from tests.text import t5_files

REPOSITORY = Path(__file__).parents[2]
TEXT_ENCODER = "checkpoints/t5-v1_1-xxl"
CODES, CLUSTERS, WORDS = 32, 8, 128
# Wide enough that Adafactor factors the second moments of matrices, which it does from 128 on.
TRANSFORMER = {"width": 128, "depth": 2, "heads": 4, "mlp_dim": 128}
MASKED = {**TRANSFORMER, "vocab_size": CODES, "text_dim": t5_files.WIDTH}
COGLM = {**TRANSFORMER, "vocab_size": WORDS, "image_position": 16}
DIRECT_GRID, ITERATIVE_GRID = (4, 4), (12, 12)
MODEL: dict[str, dict[str, Any]] = {
    "vqgan": {"filters": 8, "num_res_blocks": 1, "codebook_size": CODES, "embed_dim": 4},
    "base": {**MASKED, "grid": (4, 4)},
    "superres": {
        **MASKED,
        "low_vocab_size": CODES,
        "grid": (8, 8),
        "low_grid": (4, 4),
        "low_depth": 1,
        "block": 2,
    },
    "coglm": {**COGLM, "grid": DIRECT_GRID, "text_length": 9},
    "direct_superres": {
        **COGLM,
        "grid": DIRECT_GRID,
        "text_length": 7,
        "window": (5, 3),
        "coarse_window": (3, 3),
    },
    "iterative_superres": {**COGLM, "grid": ITERATIVE_GRID, "text_length": 6, "window": (5, 3)},
}
IMAGE_SIZE = {
    "vqgan": 32,  # the least that the perceptual loss takes
    "base": 8,
    "superres": 16,
    "coglm": 8,
    "direct_superres": 24,
    "iterative_superres": 24,
}
# The runs that a run reads, the runs that make a pipeline of it, and a tokenizer put in place of a run's.
NEEDS = {
    "vqgan_f8_512_decoder": ["vqgan_f8_512"],
    "base_3b": ["vqgan_f16_256"],
    "base_632m": ["vqgan_f16_256"],
    "superres_268m": ["vqgan_f16_256", "vqgan_f8_512"],
    "coglm_6b": ["vqgan_f8_160"],
    "direct_superres": ["coglm_6b"],
    "iterative_superres": ["coglm_6b"],
}
BASE, COARSE = ("base_3b",), ("coglm_6b",)
BOTH = (*BASE, "superres_268m")
EXPORTS: dict[str, tuple[str, ...]] = {
    "vqgan_f16_256": BASE,
    "vqgan_f8_512": BOTH,
    "vqgan_f8_512_decoder": BOTH,
    "base_3b": BASE,
    "base_632m": ("base_632m",),
    "superres_268m": BOTH,
    "vqgan_f8_160": COARSE,
    "coglm_6b": COARSE,
    "direct_superres": (*COARSE, "direct_superres"),
    "iterative_superres": (*COARSE, "direct_superres", "iterative_superres"),
}
TOKENIZERS = {"vqgan_f8_512_decoder": "superres_tokenizer=runs/vqgan_f8_512_decoder"}


def config_names() -> list[str]:
    """Every paper-size config, as "muse/base_3b"."""
    files = [
        file for system in ("muse", "cogview2") for file in (REPOSITORY / "configs" / system).glob("*.py")
    ]
    return sorted(f"{file.parent.name}/{file.stem}" for file in files if file.stem != "__init__")


def load(name: str) -> ml_collections.ConfigDict:
    """The config of that name at its full size."""
    return importlib.import_module(f"configs.{name.replace('/', '.')}").get_config()


def sizes(name: str) -> dict[str, Any]:
    """The values, by dotted key, that make a config small."""
    config = load(name)
    kind = "vqgan" if config.task == "vqgan_decoder" else config.task
    small = {f"model.{key}": value for key, value in MODEL[kind].items()}
    small |= {"data.image_size": IMAGE_SIZE[kind], "data.batch_size": 8, "data.workers": 2}
    small |= {"optim.warmup_steps": 2, "log_every": 1, "eval_batches": 2}
    small |= dict.fromkeys(("eval_every", "preview_every", "checkpoint_every"), 2)
    if kind == "vqgan":
        # Two levels, 32 px to 16x16 tokens: all tokenizers that differ in sizes alone become one program.
        small |= {"model.multipliers": (1, 2), "discriminator.filters": (8, 8)}
    if config.task == "vqgan_decoder":
        small |= {"model.decoder_filters": 16, "model.decoder_res_blocks": 2}
    if "num_steps" in config.get("sampling", {}):
        small["sampling.num_steps"] = 3
    if config.task == "coglm":
        small["loss.patch"] = 2
    if config.get("sampling", {}).get("top_clusters"):
        small["sampling.top_clusters"] = 4
    return small


def small_config(name: str, **changes: Any) -> ml_collections.ConfigDict:
    """The complete small config; `changes` are by dotted key."""
    config = load(name)
    config.update_from_flattened_dict({**sizes(name), **changes})
    return validate_config(config)


def overrides(values: dict[str, Any]) -> list[str]:
    """The flags that set values of a config, by dotted key."""
    return [f"--config.{key}={value}" for key, value in values.items()]


def write_inputs(run: str) -> None:
    """Everything that a run of this config reads, in the working directory, where the config says it is."""
    write_images(Path("data/captioned"))
    text = Path(TEXT_ENCODER)
    text.mkdir(parents=True)
    t5_files.write_sentencepiece(text)
    # Both of the formats that T5 was published in.
    write = t5_files.write_t5x if run == "base_632m" else t5_files.write_safetensors
    write(text, t5_files.random_weights())
    train_text_pieces(CAPTIONS, "checkpoints/icetk/ice_text.model", 60)
    write_runs(NEEDS.get(run, []))


CAPTIONS = [f"{size} {colour}" for size in ("small", "large") for colour in ("red", "green", "blue")]


def write_images(folder: Path, train: int = 24, validation: int = 11) -> None:
    """Noisy squares with captions; the validation split is no whole number of batches."""
    folder.mkdir(parents=True)
    rng, lines = np.random.default_rng(0), []
    for index in range(train + validation):
        pixels = rng.integers(0, 80, (32, 32, 3))
        pixels[8:24, 8:24, index % 3] += 150
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
        split = "train" if index < train else "validation"
        caption = CAPTIONS[index % len(CAPTIONS)]
        lines.append(json.dumps({"file": f"{index}.png", "caption": caption, "split": split}))
    (folder / "captions.jsonl").write_text("\n".join(lines))


def write_runs(names: list[str]) -> None:
    """Untrained runs of those configs and of those that they need, under runs/ of the working directory.

    A run that is there already stays; a tokenizer of CogView2 gets clusters.
    """
    for name in names:
        write_runs(NEEDS.get(name, []))
        if not Path("runs", name).exists():
            write_run(name)
        if name == "vqgan_f8_160" and not Path("runs", name, FILE).exists():
            write_clusters(name)


def write_run(name: str) -> None:
    """A run of random weights, as far as other programs read it: its config and averaged weights."""
    system = next(full.split("/")[0] for full in config_names() if full.endswith(f"/{name}"))
    config, workdir = small_config(f"{system}/{name}"), Path("runs", name)
    task = make_task(config)
    shapes = nn.unbox(jax.eval_shape(task.init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)
    workdir.mkdir(parents=True)
    save_config(workdir, config)
    with ocp.CheckpointManager(workdir.absolute() / "checkpoints") as manager:
        manager.save(1, args=ocp.args.Composite(ema=ocp.args.StandardSave(weights)))


def write_clusters(name: str) -> None:
    """Clusters of the codes of a tokenizer's run."""
    source = open_source(f"runs/{name}")
    tokenizer = source.tokenizer()
    rows = codebook_rows(tokenizer.module, tokenizer.params)
    cluster_codebook(rows, CLUSTERS).save(source.file(FILE))
