"""Muse: masked generative transformers for text-to-image generation (Chang et al. 2023)."""

from muse_jax.sampling.params import MaskedSampling
from muse_jax.system import Stage, System
from muse_jax.systems.muse.masked_transformer import MaskedTransformer
from muse_jax.systems.muse.pipeline import MusePipeline
from muse_jax.systems.muse.superres_transformer import SuperResTransformer
from muse_jax.systems.muse.tasks import BaseTask, SuperResTask

SYSTEM = System(
    name="muse",
    tasks={"base": BaseTask, "superres": SuperResTask},
    stages={
        "base": Stage(
            MaskedTransformer,
            ("base",),
            file="base",
            sampling=MaskedSampling,
            tokenizer="tokenizer",
            tokenizer_file="vqgan",
        ),
        "superres": Stage(
            SuperResTransformer,
            ("superres",),
            file="superres",
            sampling=MaskedSampling,
            tokenizer="superres_tokenizer",
            tokenizer_file="vqgan_superres",
            optional=True,
        ),
    },
    pipeline=MusePipeline,
)
