"""Images from text by token transformers, in JAX and Flax."""

from typing import Any

__all__ = ["CogView2Pipeline", "MusePipeline"]


def __getattr__(name: str) -> Any:
    # Lazily, so that `import muse_jax.networks` does not pull in every part.
    if name in __all__:
        from muse_jax import pipelines

        return getattr(pipelines, name)
    raise AttributeError(f"module 'muse_jax' has no attribute {name!r}")
