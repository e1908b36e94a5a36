"""Generative models over tokens, in JAX and Flax."""

import importlib
from typing import Any

__version__ = "0.2.0"
__all__ = ["CogView2Pipeline", "MusePipeline", "NuwaPipeline", "__version__", "load_pipeline"]

_HOMES = {
    "CogView2Pipeline": "muse_jax.systems.cogview2.pipeline",
    "MusePipeline": "muse_jax.systems.muse.pipeline",
    "NuwaPipeline": "muse_jax.systems.nuwa.pipeline",
    "load_pipeline": "muse_jax.systems.base",
}
_PACKAGES = (
    "checkpointing",
    "data",
    "evaluation",
    "interop",
    "media",
    "nn",
    "sampling",
    "sharding",
    "system",
    "systems",
    "text",
    "tokenizers",
    "training",
)


def __getattr__(name: str) -> Any:
    # Lazily, so that `import muse_jax.nn` does not pull in every part.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"muse_jax.{name}")
    raise AttributeError(f"module 'muse_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_PACKAGES})
