"""Data: sources of captioned media, opened by name, and loaders with a state that can be saved."""

from muse_jax.data.captions import PLAIN_CAPTIONS, CaptionTemplate, emoji_prompt
from muse_jax.data.loader import Loader, make_loader
from muse_jax.data.precomputed import PrecomputedLoader, PrecomputedSource, write_precomputed
from muse_jax.data.sources import CorruptRecordError, FolderSource, Source, TfdsSource, load_source

__all__ = [
    "PLAIN_CAPTIONS",
    "CaptionTemplate",
    "CorruptRecordError",
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
