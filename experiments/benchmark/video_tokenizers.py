"""Codes of single frames against codes of clips: PSNR of both, and what a single image costs.

    python -m experiments.benchmark.video_tokenizers --frames=motion --clips=runs/motion/video_vqvae

A tokenizer of frames encodes an image by itself. One of clips has no code for one image, so that the image
is repeated for as many frames as a code stands for.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import apps
from muse_jax.checkpointing.run import restore_params
from muse_jax.checkpointing.run_config import config_file, load_config
from muse_jax.checkpointing.source import open_source
from muse_jax.data import load_source
from muse_jax.evaluation.clips import Clips
from muse_jax.evaluation.image_quality import psnr
from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.system import make_task
from muse_jax.systems.nuwa import VideoVQVAETask

_FRAMES = flags.DEFINE_string("frames", "motion", "Tokenizer of frames: a run or a checkpoint.")
_CLIPS = flags.DEFINE_string("clips", "runs/motion/video_vqvae", "Run of the tokenizer of clips.")
_SPLIT = flags.DEFINE_string("split", "validation", "Split to measure.")
_SOURCE = flags.DEFINE_string("source", "motion", "Data source of the clips.")
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the built motion data.")
_COUNT = flags.DEFINE_integer("count", 128, "Clips of the split, weather first.", lower_bound=1)
_BATCH = 8  # clips

Rebuild = Callable[[Any], Any]
"""uint8 clips (8, frames, height, width, 3) through a tokenizer."""


def main() -> None:
    """Measures both tokenizers on the same clips and on their middle frames, and prints a table."""
    task, of_clips = clips_tokenizer(Path(_CLIPS.value))
    module, of_frames = frames_tokenizer(_FRAMES.value)
    source = load_source(_SOURCE.value, _SPLIT.value, _DATA_DIR.value)
    clips = np.stack([source[i]["video"] for i in range(min(_COUNT.value, len(source)))])
    clips, span = clips[:, : task.config.data.frames], task.network.downsample[0]
    images = clips[:, clips.shape[1] // 2, None]
    repeated = np.repeat(images, span, axis=1)

    single = module.latent_spec(images.shape[2:]).num_tokens
    whole, still = (task.network.latent_spec(x.shape[1:]).num_tokens for x in (clips, repeated))
    print(f"{len(clips)} clips of {_SOURCE.value}, {_SPLIT.value}, and the middle frame of each")
    show("tokenizer of", "codes a clip", "PSNR of clips", "codes an image", "PSNR of images")
    for name, rebuild, stills, counts in (
        ("frames", of_frames, images, (clips.shape[1] * single, single)),
        ("clips", of_clips, repeated, (whole, still)),
    ):
        video, image = (f"{measure(rebuild, part):.2f} dB" for part in (clips, stills))
        show(name, counts[0], video, counts[1], image)


def clips_tokenizer(workdir: Path) -> tuple[VideoVQVAETask, Rebuild]:
    """The task of a run of configs/motion/video_vqvae.py, and its reconstructions."""
    task = make_task(load_config(workdir)) if config_file(workdir) else None
    if not isinstance(task, VideoVQVAETask):
        raise ValueError(
            f"--clips is {str(workdir)!r}, which is no run of the task 'video_vqvae': train "
            "configs/motion/video_vqvae.py, and give its workdir."
        )
    return task, partial(jax.jit(task.reconstruct), restore_params(workdir))


def frames_tokenizer(name: str) -> tuple[Any, Rebuild]:
    """The tokenizer of images of a run or a checkpoint, and its reconstructions of clips."""
    tokenizer = open_source(name, "--frames").tokenizer()
    module = tokenizer.module

    def rebuild(params: Any, clips: jax.Array) -> jax.Array:
        frames = to_unit_range(clips.reshape(-1, *clips.shape[2:]))
        return from_unit_range(module.decode(params, module.encode(params, frames))).reshape(clips.shape)

    return module, partial(jax.jit(rebuild), tokenizer.params)


def measure(rebuild: Rebuild, clips: Clips) -> float:
    """Mean PSNR of the frames of rebuilt clips, in dB."""
    found = []
    for start in range(0, len(clips), _BATCH):
        part = clips[start : start + _BATCH]
        filled = np.concatenate([part, np.repeat(part[-1:], _BATCH - len(part), axis=0)])
        rebuilt = np.asarray(rebuild(filled))[: len(part)]
        ours, given = (jnp.asarray(x.reshape(-1, *x.shape[2:])) for x in (rebuilt, part))
        found.append(np.asarray(psnr(ours, given)))
    return float(np.mean(np.concatenate(found)))


def show(*cells: Any) -> None:
    """Prints a row of the table."""
    print(*(str(cell).ljust(14) for cell in cells), flush=True)


if __name__ == "__main__":
    apps.run(main)
