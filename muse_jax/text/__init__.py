"""Frozen text encoders (T5 v1.1 of every size, MiniLM-L6) and sentencepiece models."""

from muse_jax.text.encoder import TextEncoder, load_text_encoder
from muse_jax.text.pieces import TextPieces, train_text_pieces
from muse_jax.text.precompute import encode_captions
from muse_jax.text.t5 import T5_SIZES, T5Config, T5Encoder

__all__ = [
    "T5_SIZES",
    "T5Config",
    "T5Encoder",
    "TextEncoder",
    "TextPieces",
    "encode_captions",
    "load_text_encoder",
    "train_text_pieces",
]
