"""Tasks of a pipeline by name, the flags that they need, and inputs from files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.pipeline_tasks import (
    choose_task,
    find_tasks,
    read_images,
    read_mask,
    read_videos,
    task_inputs,
)
from muse_jax.media.video import encode_gif
from muse_jax.systems.amused import AmusedPipeline
from muse_jax.systems.cogview2 import CogView2Pipeline
from muse_jax.systems.maskgit import MaskGITPipeline
from muse_jax.systems.muse import MusePipeline
from muse_jax.systems.nuwa import NuwaPipeline

COLORS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)
CLIP = np.broadcast_to(COLORS[:, None, None], (3, 8, 8, 3))


class Pipe(NuwaPipeline):
    image_size = (8, 8)
    fps = 8.0

    def __init__(self):
        pass


@pytest.mark.parametrize(
    "pipeline, expected",
    [
        (
            NuwaPipeline,
            "complete generate generate_image generate_video manipulate predict "
            "sketch_to_image sketch_to_video",
        ),
        (MusePipeline, "edit generate inpaint"),
        (CogView2Pipeline, "generate inpaint"),
        (AmusedPipeline, "generate image_to_image inpaint"),
        (MaskGITPipeline, "generate inpaint"),
    ],
)
def test_the_tasks_are_the_methods_that_files_and_prompts_can_call(pipeline, expected):
    assert find_tasks(pipeline) == expected.split()


@pytest.mark.parametrize(
    "name, out, expected",
    [
        ("", "a.png", ("generate", False)),
        ("", "a.mp4", ("generate_video", True)),
        ("manipulate", "a.png", ("manipulate", False)),
        ("manipulate", "a.GIF", ("manipulate", True)),
        ("sketch_to_video", "a.gif", ("sketch_to_video", True)),
    ],
)
def test_the_file_and_the_name_say_which_task_it_is(name, out, expected):
    assert choose_task(Pipe(), name, Path(out)) == expected


@pytest.mark.parametrize(
    "name, out, message",
    [
        ("paint", "a.png", "--task=paint: this Pipe has the tasks complete, generate"),
        ("save_pretrained", "a.png", "this Pipe has the tasks"),
        ("predict", "a.png", "--task=predict makes videos: give --out a name that ends in .gif or .mp4"),
        ("complete", "a.mp4", "--task=complete of this Pipe makes images"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(name, out, message):
    with pytest.raises(ValueError, match=message):
        choose_task(Pipe(), name, Path(out))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "clip.gif").write_bytes(encode_gif(CLIP))
    wide = np.zeros((8, 12, 3), np.uint8)
    wide[:, 2:10] = COLORS[1]
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) // 32 * 255).save(tmp_path / "mask.png")
    (tmp_path / "text.png").write_text("no image")
    return {name: str(tmp_path / name) for name in ("clip.gif", "wide.png", "mask.png", "text.png")}


def test_files_are_cropped_to_the_size_of_the_pipeline(files):
    images = read_images([files["clip.gif"], files["wide.png"]], (8, 8))
    np.testing.assert_array_equal(images, np.broadcast_to(COLORS[:2, None, None], (2, 8, 8, 3)))
    np.testing.assert_array_equal(read_videos([files["clip.gif"]], (8, 8)), CLIP[None])
    assert read_videos([files["wide.png"]], (4, 6)).shape == (1, 1, 4, 6, 3)
    np.testing.assert_array_equal(read_mask(files["mask.png"], (8, 8))[:, 0], np.arange(8) >= 4)


def test_inputs_have_the_names_of_the_task_s_parameters(files):
    inputs = task_inputs(Pipe(), "manipulate", ["a dog"], [files["clip.gif"]], files["mask.png"], True)
    assert list(inputs) == ["prompts", "media", "mask"] and inputs["media"].shape == (1, 3, 8, 8, 3)
    inputs = task_inputs(Pipe(), "sketch_to_image", [], [files["wide.png"]], "", False)
    assert list(inputs) == ["sketches"] and inputs["sketches"].shape == (1, 8, 8, 3)


@pytest.mark.parametrize(
    "task, prompts, images, mask, message",
    [
        ("generate", [], [], "", "--task=generate needs --prompt"),
        ("generate", ["a"], ["wide.png"], "", "--image is given, but --task=generate does not use it"),
        ("complete", [], ["wide.png"], "", "--task=complete needs --mask"),
        ("predict", [], ["clip.gif", "wide.png"], "", "the videos have 1 to 3 frames"),
        ("predict", [], ["text.png"], "", "text.png cannot be read as an image or a GIF"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(files, task, prompts, images, mask, message):
    with pytest.raises(ValueError, match=message):
        task_inputs(Pipe(), task, prompts, [files[name] for name in images], mask, task == "predict")
