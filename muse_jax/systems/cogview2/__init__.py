"""CogView2: text-to-image generation by hierarchical autoregressive transformers (Ding et al. 2022)."""

from muse_jax.sampling.params import LoparSampling, TokenSampling
from muse_jax.system import Stage, System
from muse_jax.systems.cogview2.coglm import CogLM
from muse_jax.systems.cogview2.pipeline import CogView2Pipeline
from muse_jax.systems.cogview2.sampling_params import CogLMSampling
from muse_jax.systems.cogview2.superres import DirectSuperRes, IterativeSuperRes, split_params
from muse_jax.systems.cogview2.superres_tasks import DirectSuperResTask, IterativeSuperResTask
from muse_jax.systems.cogview2.tasks import CogLMTask

SYSTEM = System(
    name="cogview2",
    tasks={
        "coglm": CogLMTask,
        "direct_superres": DirectSuperResTask,
        "iterative_superres": IterativeSuperResTask,
    },
    stages={
        "coarse": Stage(
            CogLM,
            ("coglm",),
            file="coglm",
            sampling=CogLMSampling,
            tokenizer="tokenizer",
            tokenizer_file="vqgan",
        ),
        "direct": Stage(
            DirectSuperRes,
            ("direct_superres",),
            file="direct",
            sampling=TokenSampling,
            optional=True,
            own=lambda params: split_params(params)[1],
        ),
        "iterative": Stage(
            IterativeSuperRes,
            ("iterative_superres",),
            file="iterative",
            sampling=LoparSampling,
            optional=True,
        ),
    },
    pipeline=CogView2Pipeline,
    files={"text.model": "text_pieces", "clusters.npz": "tokenizer"},
)
