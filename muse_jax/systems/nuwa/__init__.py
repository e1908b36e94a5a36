"""NUWA: images and videos from text, sketches, images and videos (Wu et al. 2021, arXiv 2111.12417)."""

from muse_jax.system import Stage, System
from muse_jax.systems.nuwa.pipeline import NuwaPipeline
from muse_jax.systems.nuwa.ranker import RankerSampling, VideoRanker
from muse_jax.systems.nuwa.ranker_task import VideoRankerTask
from muse_jax.systems.nuwa.sampling import NuwaSampling
from muse_jax.systems.nuwa.tasks import NuwaTask
from muse_jax.systems.nuwa.transformer import NuwaTransformer
from muse_jax.systems.nuwa.video_tokenizer_task import VideoVQVAETask

SYSTEM = System(
    name="nuwa",
    tasks={"nuwa": NuwaTask, "video_vqvae": VideoVQVAETask, "video_ranker": VideoRankerTask},
    stages={
        "base": Stage(
            NuwaTransformer,
            ("nuwa",),
            file="base",
            sampling=NuwaSampling,
            tokenizer="tokenizer",
            tokenizer_file="vqgan",
        ),
        "ranker": Stage(
            VideoRanker, ("video_ranker",), file="ranker", sampling=RankerSampling, optional=True
        ),
    },
    pipeline=NuwaPipeline,
)
