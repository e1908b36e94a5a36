"""The data set "emoji": one image per (concept, style) pair, from four freely licensed vector sets."""

from muse_jax.data.emoji.artwork import PACKAGES, STYLES, Artwork, load_artworks, render_png
from muse_jax.data.emoji.splits import SPLITS, assign_splits

__all__ = ["PACKAGES", "SPLITS", "STYLES", "Artwork", "assign_splits", "load_artworks", "render_png"]
