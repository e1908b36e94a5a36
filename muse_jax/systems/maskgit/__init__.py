"""MaskGIT: class-conditional masked transformers with released weights (Chang et al. 2022)."""

from muse_jax.checkpointing.pretrained import fields_of
from muse_jax.system import Stage, System
from muse_jax.systems.maskgit.convert import convert_maskgit
from muse_jax.systems.maskgit.pipeline import MaskGITPipeline, MaskGITSampling
from muse_jax.systems.maskgit.task import ClassTask
from muse_jax.systems.maskgit.tokenizer import MaskGITVQGAN
from muse_jax.systems.maskgit.transformer import ClassTransformer


def _published(side: int) -> dict[str, object]:
    tokenizer = {"class": f"{MaskGITVQGAN.__module__}.MaskGITVQGAN", **fields_of(MaskGITVQGAN())}
    network = fields_of(ClassTransformer(grid=(side, side)))
    stage = {"network": network, "sampling": MaskGITSampling().to_dict(), "tokenizer": tokenizer}
    return {"system": "maskgit", "transformer": stage}


SYSTEM = System(
    name="maskgit",
    tasks={"class_conditional": ClassTask},
    stages={
        "transformer": Stage(
            ClassTransformer,
            ("class_conditional",),
            file="transformer",
            sampling=MaskGITSampling,
            tokenizer="tokenizer",
            tokenizer_file="vqgan",
        )
    },
    pipeline=MaskGITPipeline,
    converters={"maskgit": convert_maskgit},
    published={"maskgit-256": _published(16), "maskgit-512": _published(32)},
)
