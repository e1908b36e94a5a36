"""VQGAN: image tokenizers (Esser et al. 2021), and fine-tuning of their decoders."""

from typing import Any

from muse_jax.checkpointing.source import open_source
from muse_jax.system import Stage, System
from muse_jax.systems.vqgan.segmentation_task import VQGANSegTask
from muse_jax.systems.vqgan.tasks import VQGANDecoderTask, VQGANTask
from muse_jax.tokenizers import VQGAN, VQGANSeg


def _generator(run: Any) -> Any:
    """Parameters of a VQGAN; a run that trains only a decoder takes the others from its tokenizer."""
    params = run.trained_params()["generator"]
    if run.config.task == "vqgan_decoder":
        params = {**open_source(run.config.tokenizer, "config.tokenizer").tokenizer().params, **params}
    return params


SYSTEM = System(
    name="vqgan",
    tasks={"vqgan": VQGANTask, "vqgan_decoder": VQGANDecoderTask, "vqgan_seg": VQGANSegTask},
    stages={
        "vqgan": Stage(VQGAN, ("vqgan", "vqgan_decoder"), file="vqgan", from_run=_generator),
        "vqgan_seg": Stage(VQGANSeg, ("vqgan_seg",), file="vqgan_seg", from_run=_generator),
    },
)
