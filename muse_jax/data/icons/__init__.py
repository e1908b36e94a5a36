"""The data set "icons": images composed on reading from coloured and single-colour drawings."""

from muse_jax.data.icons.drawings import Drawing, load_drawings
from muse_jax.data.icons.palette import BACKGROUNDS, FOREGROUNDS
from muse_jax.data.icons.sets import PACKAGES, SETS, STYLES, WEIGHTS
from muse_jax.data.icons.source import IconsSource
from muse_jax.data.icons.splits import SPLITS

__all__ = [
    "BACKGROUNDS",
    "FOREGROUNDS",
    "PACKAGES",
    "SETS",
    "SPLITS",
    "STYLES",
    "WEIGHTS",
    "Drawing",
    "IconsSource",
    "load_drawings",
]
