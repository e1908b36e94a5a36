"""NUWA: images and videos from text, sketches, images and videos (Wu et al. 2021, arXiv 2111.12417)."""

from muse_jax.system import Stage, System
from muse_jax.systems.nuwa.pipeline import NuwaPipeline
from muse_jax.systems.nuwa.sampling import NuwaSampling
from muse_jax.systems.nuwa.tasks import NuwaTask
from muse_jax.systems.nuwa.transformer import NuwaTransformer
from muse_jax.systems.nuwa.video_tokenizer_task import VideoVQVAETask

SYSTEM = System(
    name="nuwa",
    tasks={"nuwa": NuwaTask, "video_vqvae": VideoVQVAETask},
    stages={
        "base": Stage(
            NuwaTransformer,
            ("nuwa",),
            file="base",
            sampling=NuwaSampling,
            tokenizer="tokenizer",
            tokenizer_file="vqgan",
        )
    },
    pipeline=NuwaPipeline,
)
