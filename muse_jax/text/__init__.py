"""Frozen text encoders: T5 v1.1 of every size, and MiniLM-L6."""

from muse_jax.text.encoder import TextEncoder, load_text_encoder

__all__ = ["TextEncoder", "load_text_encoder"]
