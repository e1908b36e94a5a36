"""Metrics of a run: metrics.jsonl, previews and the progress line."""

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from muse_jax.media import Audio, Video
from muse_jax.media.audio import decode_audio
from muse_jax.media.image import decode_image, tile_images
from muse_jax.media.video import decode_video
from muse_jax.training import train
from muse_jax.training.metrics import MetricWriter, ProgressLine, format_seconds
from tests.training.least_squares import LeastSquares
from tests.training.runs import bare_config, bare_run, rows


def test_corrupt_records_are_counted_in_the_log(tmp_path):
    class Skipping(LeastSquares):
        def make_loader(self, split, seed):
            loader = super().make_loader(split, seed)
            loader.skipped = 3
            return loader

    config = bare_config(total_steps=2)
    train(config, Skipping(config), tmp_path)
    assert rows(tmp_path, "train")[-1]["corrupt_records"] == 3


def test_an_incomplete_line_of_metrics_is_dropped(tmp_path):
    bare_run(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "ki')
    bare_run(tmp_path / "run", total_steps=8)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8]


def board_values(workdir):
    """The summary values in the TensorBoard files of a run: tag -> value."""
    values = {}
    for file in (workdir / "tensorboard").iterdir():
        for record in read_records(file.read_bytes()):
            for value in Event.FromString(record).summary.value:
                values[value.tag] = value
    return values


def read_records(data):
    """The records of a TFRecord file: length (8 bytes), its CRC (4), data, CRC of the data (4)."""
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        data = data[16 + length :]


def write_previews(workdir, previews):
    writer = MetricWriter(workdir)
    files = writer.previews(20, previews)
    writer.close()
    assert [file.parent for file in files] == [workdir / "previews"] * len(previews)
    return files, board_values(workdir)


def test_images_are_previewed_as_a_png_grid(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    (file,), board = write_previews(tmp_path, {"eval/images": images})
    assert file.name == "eval_images_0000020.png"
    np.testing.assert_array_equal(decode_image(file.read_bytes()), tile_images(images))
    shown = board["eval/images"].image
    assert (shown.height, shown.width) == tile_images(images).shape[:2]
    assert shown.encoded_image_string == file.read_bytes()


def test_videos_are_previewed_as_a_gif(tmp_path):
    clips = np.zeros((2, 4, 8, 8, 3), np.uint8)
    for frame in range(4):
        clips[0, frame, 2 * frame], clips[1, frame, :, frame] = (250, 0, 40), (0, 200, 0)
    (file,), board = write_previews(tmp_path, {"clips": clips})
    assert file.name == "clips_0000020.gif"
    frames = decode_video(file.read_bytes()).frames
    np.testing.assert_array_equal(frames[:, 2:10, 2:10], clips[0])
    np.testing.assert_array_equal(frames[:, 2:10, 12:20], clips[1])
    assert board["clips"].image.encoded_image_string == file.read_bytes()


def test_audio_is_previewed_as_a_wav(tmp_path):
    samples = np.sin(np.arange(2 * 1000).reshape(2, 1000) / 9)
    (file,), board = write_previews(tmp_path, {"sounds": Audio(samples, 4000)})
    assert file.name == "sounds_0000020.wav"
    audio = decode_audio(file.read_bytes())
    assert audio.sample_rate == 4000
    np.testing.assert_allclose(audio.samples[-1000:], samples[1], atol=1e-4)
    shown = board["sounds"].audio
    assert (shown.sample_rate, shown.num_channels, shown.length_frames) == (4000, 1, len(audio.samples))
    assert shown.encoded_audio_string == file.read_bytes()


def test_other_arrays_are_no_preview(tmp_path):
    with pytest.raises(ValueError, match=r"type float32 and shape \(2, 8, 8, 3\): give uint8 images"):
        write_previews(tmp_path, {"floats": np.zeros((2, 8, 8, 3), np.float32)})


def test_a_task_can_preview_video_and_audio(tmp_path):
    class Playing(LeastSquares):
        def preview(self, params, frozen, batch, key):
            frames = jnp.arange(3, dtype=jnp.uint8)[:, None, None, None] * jnp.ones(
                (2, 3, 4, 4, 3), jnp.uint8
            )
            return {"clip": Video(frames, fps=5), "sound": Audio(batch["x"][:2], sample_rate=100)}

    config = bare_config(total_steps=2, preview_every=2)
    train(config, Playing(config), tmp_path)
    assert {path.name for path in (tmp_path / "previews").iterdir()} == {
        "clip_0000002.gif",
        "sound_0000002.wav",
    }
    assert decode_video((tmp_path / "previews" / "clip_0000002.gif").read_bytes()).fps == 5


def test_the_progress_line(capsys):
    assert [format_seconds(s) for s in (5, 75, 7205)] == ["0:05", "1:15", "2:00:05"]
    progress = ProgressLine(10)
    assert progress.speed(5, 2.0) == 2.5
    progress.show(5, 1.25, 80.0, 0.5)
    line = capsys.readouterr().err
    assert line.startswith("step 5/10  loss 1.2500  80.0 examples/s  mfu 50.0%") and line.endswith("left\n")
