"""aMUSEd: a small masked text-to-image transformer with published weights (Patil et al. 2024)."""

from muse_jax.system import Stage, System
from muse_jax.systems.amused.convert import convert_amused
from muse_jax.systems.amused.pipeline import AmusedPipeline
from muse_jax.systems.amused.published import PUBLISHED
from muse_jax.systems.amused.sampling import AmusedSampling
from muse_jax.systems.amused.task import FinetuneTask
from muse_jax.systems.amused.text import TOKENIZER, WEIGHTS
from muse_jax.systems.amused.uvit import UVit2D

SYSTEM = System(
    name="amused",
    tasks={"finetune": FinetuneTask},
    stages={
        "transformer": Stage(
            UVit2D,
            ("finetune",),
            file="transformer",
            sampling=AmusedSampling,
            tokenizer="tokenizer",
            tokenizer_file="vqvae",
        )
    },
    pipeline=AmusedPipeline,
    files={WEIGHTS: "text_encoder", TOKENIZER: "text_encoder"},
    converters={"amused": convert_amused},
    published=PUBLISHED,
)
