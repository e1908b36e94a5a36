"""What a person holds: a pipeline with its weights, loaded by one call."""

from muse_jax.pipelines.muse import MusePipeline, Stage
from muse_jax.pipelines.settings import Decoding

__all__ = ["Decoding", "MusePipeline", "Stage"]
