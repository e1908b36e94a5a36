"""MotionEval of real clips, as they are and through a tokenizer, which shows how reliable its measures are.

    python -m experiments.benchmark.motioneval --tokenizer=runs/motion/vqgan64

The evaluator `motioneval` measures generated clips, see `experiments.evaluate`. Each row has the fraction of
correct clips for each measure, and the PSNR of the clips that the tokenizer rebuilds.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import apps
from muse_jax.checkpointing.source import open_source
from muse_jax.data import load_source
from muse_jax.evaluation.clips import Clips
from muse_jax.evaluation.image_quality import psnr
from muse_jax.evaluation.motioneval import ATTRIBUTES, Probes, motion_eval
from muse_jax.media.image import from_unit_range, to_unit_range

_SPLIT = flags.DEFINE_string("split", "heldout_pairs", "Split to measure.")
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the built motion data.")
_TOKENIZER = flags.DEFINE_string("tokenizer", "", 'Tokenizer of images: a run or a checkpoint; "": none.')
_CLIPS = flags.DEFINE_integer("clips", 256, "Clips of the split, weather first.", lower_bound=1)
_PROBE_CLIPS = flags.DEFINE_integer("probe_clips", 800, "Clips that the probes are fitted to.", lower_bound=8)
_BATCH = 64  # frames


def main() -> None:
    """Scores the clips and prints a table."""
    source = load_source("motion", _SPLIT.value, _DATA_DIR.value)
    records = [source[index] for index in range(min(_CLIPS.value, len(source)))]
    real = np.stack([record["video"] for record in records])
    tokenizer = open_source(_TOKENIZER.value, "--tokenizer").tokenizer() if _TOKENIZER.value else None
    rows = {"real": real} if tokenizer is None else {"real": real, "tokenizer": rebuild(tokenizer, real)}
    trained = load_source("motion", "train", _DATA_DIR.value)
    probes = Probes(
        [trained[index] for index in range(min(_PROBE_CLIPS.value, len(trained)))],
        lambda clips: None if tokenizer is None else rebuild(tokenizer, clips),
    )
    columns = ("direction", *ATTRIBUTES, "retrieval", "psnr")
    print("clips".ljust(12), *(name.rjust(13) for name in columns))
    for name, clips in rows.items():
        scores = motion_eval(clips, records, real, probes)
        if name != "real":
            scores["psnr"] = float(np.mean(psnr(*(jnp.asarray(_frames(part)) for part in (clips, real)))))
        cells = [f"{scores[column]:.3f}" if column in scores else "-" for column in columns]
        print(name.ljust(12), *(cell.rjust(13) for cell in cells), flush=True)


def rebuild(tokenizer: Any, clips: Clips) -> Clips:
    """Clips through a tokenizer of images, frame by frame."""
    module, params = tokenizer.module, tokenizer.params
    through = jax.jit(
        lambda params, frames: from_unit_range(
            module.decode(params, module.encode(params, to_unit_range(frames)))
        )
    )
    frames = _frames(clips)
    parts = [through(params, frames[start : start + _BATCH]) for start in range(0, len(frames), _BATCH)]
    return np.concatenate([np.asarray(part) for part in parts]).reshape(clips.shape)


def _frames(clips: Clips) -> np.ndarray:
    return clips.reshape(-1, *clips.shape[2:])


if __name__ == "__main__":
    apps.run(main)
