"""The data set "motion": clips of animated weather icons and of emoji in exactly known motion."""

from muse_jax.data.motion.drawings import PACKAGES
from muse_jax.data.motion.moves import DIRECTIONS, FRAMES, MOTIONS, SIZE
from muse_jax.data.motion.source import MotionSource
from muse_jax.data.motion.splits import SPLITS
from muse_jax.data.motion.weather import PRECIPITATION, STYLES

__all__ = [
    "DIRECTIONS",
    "FRAMES",
    "MOTIONS",
    "PACKAGES",
    "PRECIPITATION",
    "SIZE",
    "SPLITS",
    "STYLES",
    "MotionSource",
]
