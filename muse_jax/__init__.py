"""Images from text by token transformers, in JAX and Flax."""

from typing import Any

__all__ = ["MusePipeline"]


def __getattr__(name: str) -> Any:
    # Lazily, so that `import muse_jax.networks` does not pull in every part.
    if name == "MusePipeline":
        from muse_jax.pipelines import MusePipeline

        return MusePipeline
    raise AttributeError(f"module 'muse_jax' has no attribute {name!r}")
