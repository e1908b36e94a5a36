"""Image tokenizers: pixels to an integer grid and back."""

from muse_jax.tokenizers.quantizer import VectorQuantizer
from muse_jax.tokenizers.vqgan import VQGAN

__all__ = ["VQGAN", "VectorQuantizer"]
