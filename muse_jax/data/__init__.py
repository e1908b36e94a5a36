"""Captioned pictures: sources opened by name, and a checkpointable pipeline of batches from them."""

from muse_jax.data.captions import PLAIN_CAPTIONS, CaptionTemplate, emoji_prompt
from muse_jax.data.loader import Loader, make_loader
from muse_jax.data.precomputed import PrecomputedLoader, PrecomputedSource, write_precomputed
from muse_jax.data.sources import CorruptImageError, FolderSource, Source, TfdsSource, load_source

__all__ = [
    "PLAIN_CAPTIONS",
    "CaptionTemplate",
    "CorruptImageError",
    "FolderSource",
    "Loader",
    "PrecomputedLoader",
    "PrecomputedSource",
    "Source",
    "TfdsSource",
    "emoji_prompt",
    "load_source",
    "make_loader",
    "write_precomputed",
]
