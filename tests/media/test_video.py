"""Videos: GIF files, frame rates, and augmentations that are the same for all frames of a clip."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from muse_jax.media import Video, VideoModality
from muse_jax.media.video import decode_video, encode_gif, resample_frames, split_strip
from tests.media.test_image import coordinates


def moving_square(frames=6, size=16):
    clip = np.full((frames, size, size, 3), (200, 220, 240), np.uint8)
    for index, frame in enumerate(clip):
        frame[4:8, 2 * index : 2 * index + 4] = (250, 20, 40 * index)
    return clip


def test_gif_round_trip():
    clip = moving_square()
    video = decode_video(encode_gif(clip, 10))
    assert video.fps == 10
    np.testing.assert_array_equal(video.frames, clip)


def test_a_gif_keeps_equal_consecutive_frames():
    clip = moving_square()[[0, 0, 0, 1, 2, 2]]
    np.testing.assert_array_equal(decode_video(encode_gif(clip, 5)).frames, clip)


def test_longer_frames_are_repeated():
    colours = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (10, 20)]
    buffer = io.BytesIO()
    colours[0].save(buffer, "GIF", save_all=True, append_images=colours[1:], duration=[100, 300])
    video = decode_video(buffer.getvalue())
    assert video.fps == 10 and video.frames[:, 0, 0, 0].tolist() == [10, 20, 20, 20]


@pytest.mark.parametrize("size", [16, 15])
def test_mp4_round_trip(size):
    imageio = pytest.importorskip("imageio.v3")
    clip = moving_square(size=size)
    data = Video(clip, 10).encode(".mp4")
    assert imageio.immeta(data, extension=".mp4", plugin="FFMPEG")["fps"] == 10
    frames = imageio.imread(data, extension=".mp4", plugin="FFMPEG")[:, :size, :size]
    assert frames.shape == clip.shape
    assert np.abs(frames.astype(int) - clip).mean() < 8, "H.264 is lossy"


def test_mp4_without_its_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match="need the package imageio_ffmpeg: install the extra 'mp4'"):
        Video(moving_square(), 10).encode(".mp4")
    with pytest.raises(ValueError, match="written as .gif or .mp4, not as '.avi'"):
        Video(moving_square(), 10).encode(".avi")


def test_a_cut_gif_is_an_error():
    with pytest.raises((OSError, ValueError, SyntaxError)):
        decode_video(encode_gif(moving_square(), 10)[:-200])


def test_a_strip_is_made_of_squares():
    strip = np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(6, 3, 3)
    np.testing.assert_array_equal(split_strip(strip), [strip[:3], strip[3:]])
    with pytest.raises(ValueError, match="a strip of 5 x 3 pixels: its height must be a multiple"):
        split_strip(strip[:5])


def test_resampling_shows_the_frame_of_each_time():
    frames = np.arange(12)
    np.testing.assert_array_equal(resample_frames(frames, 8, 4), [0, 2, 4, 6, 8, 10])
    np.testing.assert_array_equal(resample_frames(frames[:3], 4, 8), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(resample_frames(frames, 30, 2.5), [0])


@pytest.mark.parametrize("augment", ["crop+flip", "zoom+flip", "flip"])
def test_a_clip_is_augmented_like_each_of_its_frames(augment):
    record = {"video": np.repeat(coordinates(40, 50)[None], 5, 0), "fps": 8.0}
    modality = VideoModality(size=16, length=5, augment=augment)
    drawn = [modality.draw(modality.fit(record), np.random.default_rng(seed)) for seed in range(20)]
    for clip in drawn:
        np.testing.assert_array_equal(clip, np.repeat(clip[:1], 5, 0))
    assert len({clip.tobytes() for clip in drawn}) >= (2 if augment == "flip" else 10)


def numbered(frames, fps=8.0):
    return {
        "video": np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8),
        "fps": fps,
    }


def test_clips_are_cut_or_their_last_frame_repeated():
    modality = VideoModality(size=4, length=5)
    for available, expected in ((8, [0, 1, 2, 3, 4]), (3, [0, 1, 2, 2, 2])):
        clip = modality.draw(modality.fit(numbered(available)), np.random.default_rng(0))
        assert clip.shape == (5, 4, 4, 3) and clip[:, 0, 0, 0].tolist() == expected


def test_a_random_window_is_contiguous_and_reaches_both_ends():
    modality = VideoModality(size=4, length=5, augment="window")
    starts = set()
    for seed in range(40):
        times = modality.draw(modality.fit(numbered(8)), np.random.default_rng(seed))[:, 0, 0, 0]
        assert (np.diff(times) == 1).all()
        starts.add(int(times[0]))
    assert starts == {0, 1, 2, 3}


def test_several_clips_are_shown_side_by_side():
    clips = np.stack([moving_square(), moving_square()[::-1]])
    shown = decode_video(Video(clips, 10).encode()).frames
    np.testing.assert_array_equal(shown[:, 2:18, 2:18], clips[0])
    np.testing.assert_array_equal(shown[:, 2:18, 20:36], clips[1])


def test_wrong_arguments():
    with pytest.raises(ValueError, match="length is 0: give the number of frames"):
        VideoModality(size=4, length=0)
    with pytest.raises(ValueError, match="unknown step 'blur'"):
        VideoModality(size=4, length=2, augment="blur")
