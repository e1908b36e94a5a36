"""What a person holds: a pipeline with its weights, loaded by one call."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from muse_jax import checkpoint
from muse_jax.pipelines.base import Pipeline
from muse_jax.pipelines.cogview2 import CogView2Pipeline
from muse_jax.pipelines.muse import MusePipeline
from muse_jax.pipelines.settings import CogLMDecoding, Decoding, LoparDecoding, TokenDecoding
from muse_jax.pipelines.stages import FineStage, Stage

__all__ = [
    "CogLMDecoding",
    "CogView2Pipeline",
    "Decoding",
    "FineStage",
    "LoparDecoding",
    "MusePipeline",
    "Pipeline",
    "Stage",
    "TokenDecoding",
    "load_pipeline",
]

PIPELINES: dict[str, Any] = {"muse": MusePipeline, "cogview2": CogView2Pipeline}
"""By the name of their system in a checkpoint's config."""


def load_pipeline(
    name: str | Path, *, mesh: Mesh | None = None, dtype: Any = None
) -> MusePipeline | CogView2Pipeline:
    """The pipeline of a packaged checkpoint or a directory, of the system that its config names.

    Args:
      mesh: the devices to run on, see `Pipeline`; None for one.
      dtype: of the weights and of the computation; None for float32.

    Raises:
      ValueError: one sentence, for a checkpoint that is missing, damaged, or whose weights do not fit.
    """
    system = checkpoint.read_config(checkpoint.find_checkpoint(name))["system"]
    pipeline: MusePipeline | CogView2Pipeline = PIPELINES[system].from_pretrained(
        name, mesh=mesh, dtype=dtype
    )
    return pipeline
