"""Batches of a task: in one of several processes, and of another medium than images."""

import json

import numpy as np

from muse_jax.media import VideoModality
from muse_jax.media.video import encode_gif
from muse_jax.system import make_task
from muse_jax.training import Task, task, validate_config
from tests.systems.conftest import MODEL, tiny_config


def vqgan_config(image_folder):
    config = tiny_config("vqgan", image_folder)
    config.model = MODEL
    return config


def test_a_process_trains_on_its_rows_and_may_read_all_of_them(monkeypatch, image_folder):
    monkeypatch.setattr(task, "process_rows", lambda batch_size: np.arange(batch_size)[1::2])
    vqgan = make_task(validate_config(vqgan_config(image_folder)))
    whole, part = next(vqgan.read("train", 3)), next(vqgan.make_loader("train", 3))
    assert whole["image"].shape == (4, 32, 32, 3)
    np.testing.assert_array_equal(part["index"], whole["index"][1::2])
    np.testing.assert_array_equal(part["image"], whole["image"][1::2])


class VideoTask(Task):
    """A task on videos of three frames."""

    def modalities(self, augment):
        return {"video": VideoModality(size=8, length=3, fps=10, augment=augment)}


def test_a_task_on_videos_reads_a_folder_of_gifs(image_folder, tmp_path):
    levels = np.arange(4, dtype=np.uint8)[:, None, None, None, None] * 60
    clips = np.broadcast_to(levels + np.arange(5, dtype=np.uint8)[:, None, None, None], (4, 5, 8, 8, 3))
    for number, clip in enumerate(clips):
        (tmp_path / f"{number}.gif").write_bytes(encode_gif(clip, 10))
    lines = [json.dumps({"file": f"{n}.gif", "caption": f"level {n}"}) for n in range(len(clips))]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    config = validate_config(vqgan_config(image_folder)).unlock()
    config.data.source = f"folder:{tmp_path}"
    batch = next(VideoTask(config).make_loader("train", 0))
    np.testing.assert_array_equal(batch["video"], clips[batch["index"], :3])
