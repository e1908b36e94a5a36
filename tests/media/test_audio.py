"""Audio: WAV files, sample rates and lengths."""

import io

import numpy as np
import pytest
from scipy.io import wavfile

from muse_jax.media import Audio, AudioModality
from muse_jax.media.audio import decode_audio, encode_wav, resample

RATE = 8000


def tone(seconds=0.25, frequency=440.0, rate=RATE):
    return (0.7 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def test_wav_round_trip_is_exact_to_16_bits():
    audio = decode_audio(encode_wav(tone(), RATE))
    assert audio.sample_rate == RATE and audio.samples.dtype == np.float32
    assert np.abs(audio.samples - tone()).max() < 2 / 32768


def test_values_outside_the_range_are_clipped():
    samples = decode_audio(encode_wav(np.array([-3.0, 0.0, 3.0]), RATE)).samples
    np.testing.assert_allclose(samples, [-1, 0, 1], atol=1e-4)


@pytest.mark.parametrize(
    "dtype, values",
    [
        (np.uint8, [0, 128, 192]),
        (np.int16, [-32768, 0, 16384]),
        (np.int32, [-(2**31), 0, 2**30]),
        (np.float32, [-1, 0, 0.5]),
    ],
)
def test_every_sample_type_is_scaled_to_the_unit_range(dtype, values):
    buffer = io.BytesIO()
    wavfile.write(buffer, RATE, np.array(values, dtype))
    np.testing.assert_allclose(decode_audio(buffer.getvalue()).samples, [-1, 0, 0.5])


def test_channels_are_averaged():
    buffer = io.BytesIO()
    wavfile.write(buffer, RATE, np.stack([tone(), -tone() / 2], 1))
    np.testing.assert_allclose(decode_audio(buffer.getvalue()).samples, tone() / 4, atol=1e-6)


def test_resampling_keeps_the_tone():
    resampled = resample(tone(), RATE, 22050)
    expected = tone(rate=22050)
    assert abs(len(resampled) - len(expected)) <= 1
    middle = slice(500, 5000)  # away from the ends, where the filter sees zeros
    np.testing.assert_allclose(resampled[middle], expected[middle], atol=0.01)


def test_clips_are_cut_or_padded_with_silence():
    record = {"audio": np.arange(1, 9, dtype=np.float32), "sample_rate": RATE}
    for length, expected in ((3, [1, 2, 3]), (10, [1, 2, 3, 4, 5, 6, 7, 8, 0, 0])):
        modality = AudioModality(RATE, length)
        assert modality.draw(modality.fit(record), np.random.default_rng(0)).tolist() == expected


def test_a_random_window_reaches_both_ends():
    modality = AudioModality(RATE, 5, "window")
    drawn = {tuple(modality.draw(np.arange(8.0), np.random.default_rng(seed)).tolist()) for seed in range(40)}
    assert drawn == {tuple(range(start, start + 5)) for start in range(4)}


def test_several_clips_are_joined_with_a_pause():
    clips = np.stack([tone(), tone(frequency=330.0)])
    samples = decode_audio(Audio(clips, RATE).encode()).samples
    count, pause = len(tone()), RATE // 2
    assert len(samples) == 2 * count + pause
    np.testing.assert_allclose(samples[:count], clips[0], atol=1e-4)
    assert not samples[count : count + pause].any()
    np.testing.assert_allclose(samples[-count:], clips[1], atol=1e-4)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="length is 0: give the number of samples"):
        AudioModality(RATE, 0)
    with pytest.raises(ValueError, match="unknown step 'flip'"):
        AudioModality(RATE, 4, "flip")
