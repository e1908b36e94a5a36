"""What a task reads in one of several processes."""

import numpy as np

from muse_jax.system import make_task
from muse_jax.training import task, validate_config
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
