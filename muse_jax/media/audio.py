"""Audio: mono float32 samples in [-1, 1] on the host, read from and written to WAV."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from muse_jax.media.image import parse_augment
from muse_jax.media.window import Window, check_length

SUFFIXES = (".wav",)
AUGMENTATIONS = ("none", "window")
PAUSE = 0.5  # seconds between the clips of a preview


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Audio:
    """One clip, or several to listen to.

    Attributes:
      samples: float ([n,] samples) in [-1, 1].
      sample_rate: samples per second.
    """

    samples: Any
    sample_rate: int = dataclasses.field(metadata={"static": True})
    suffix = ".wav"

    def joined(self) -> Float[np.ndarray, " samples"]:
        """The clips one after the other, with half a second of silence between them."""
        samples = np.asarray(self.samples, np.float32)
        if samples.ndim == 1:
            return samples
        pause = round(PAUSE * self.sample_rate)
        return np.pad(samples, ((0, 0), (0, pause))).reshape(-1)[:-pause]

    def encode(self) -> bytes:
        """The clips one after the other as a 16-bit WAV."""
        return encode_wav(self.joined(), self.sample_rate)


def decode_audio(data: bytes) -> Audio:
    """Decodes a WAV file to mono; several channels are averaged.

    Raises:
      ValueError, EOFError: the bytes are not a WAV file.
    """
    from scipy.io import wavfile

    sample_rate, samples = wavfile.read(io.BytesIO(data))
    return as_audio(samples, sample_rate)


def as_audio(samples: np.ndarray, sample_rate: int) -> Audio:
    """Mono float samples of an array (samples,) or (samples, channels) of floats or integers of any width."""
    if np.issubdtype(samples.dtype, np.integer):
        limits = np.iinfo(samples.dtype)
        middle = 0 if limits.min else (limits.max + 1) // 2  # 8-bit samples are unsigned
        samples = (samples.astype(np.float64) - middle) / (limits.max + 1 - middle)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    return Audio(samples.astype(np.float32), int(sample_rate))


def encode_wav(samples: Float[np.ndarray, " samples"], sample_rate: int) -> bytes:
    """Encodes samples as a 16-bit WAV; values outside [-1, 1] are clipped."""
    from scipy.io import wavfile

    scaled = np.round(np.clip(samples, -1, 1) * 32767)
    buffer = io.BytesIO()
    wavfile.write(buffer, sample_rate, scaled.astype(np.int16))
    return buffer.getvalue()


def resample(
    samples: Float[np.ndarray, " samples"], sample_rate: int, target_rate: int
) -> Float[np.ndarray, " resampled"]:
    """Converts samples to another rate with a polyphase filter."""
    if sample_rate == target_rate:
        return samples
    from scipy.signal import resample_poly  # here, because it takes a second to import

    common = math.gcd(sample_rate, target_rate)
    return resample_poly(samples, target_rate // common, sample_rate // common).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class AudioModality:
    """Audio of records as float32 (length,).

    Args:
      sample_rate: samples per second; clips at another rate are resampled.
      length: number of samples. Of longer clips the beginning is taken, or a random window; shorter ones are
        padded with silence.
      augment: "none" or "window".

    Raises:
      ValueError: an argument that is not allowed.
    """

    sample_rate: int
    length: int
    augment: str = "none"

    def __post_init__(self) -> None:
        check_length(self.length, "samples")
        parse_augment(self.augment, AUGMENTATIONS)

    def fit(self, record: Mapping[str, Any]) -> np.ndarray:
        """The clip of a record at `sample_rate`."""
        return resample(record["audio"], record["sample_rate"], self.sample_rate)

    def draw(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The clip at its final length."""
        window = Window.draw(len(samples), self.length, self.augment == "window", rng)
        return window.apply(samples, "constant")
