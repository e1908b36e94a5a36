"""A toy system in a package of its own: what somebody outside this project writes.

It draws every token of an image by itself, from the words of the prompt. docs/new-system.md explains it.
"""

from muse_jax.sampling.params import TokenSampling
from muse_jax.system import Stage, System
from tests.toy.network import BagOfWords
from tests.toy.pipeline import ToyPipeline
from tests.toy.task import BagOfWordsTask

SYSTEM = System(
    name="tests.toy",
    tasks={"bag_of_words": BagOfWordsTask},
    stages={
        "base": Stage(
            BagOfWords,
            ("bag_of_words",),
            file="base",
            sampling=TokenSampling,
            tokenizer="tokenizer",
            tokenizer_file="vqgan",
        )
    },
    pipeline=ToyPipeline,
)
