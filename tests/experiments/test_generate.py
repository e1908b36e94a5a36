"""The command that draws images, on a tiny checkpoint; the images of it; the demo's prompts."""

import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.apps import parse_mesh
from experiments.check_sharding import free_port
from experiments.demo import DEMO
from experiments.image_grid import captioned_grid, check_output
from muse_jax.data.icons.compose import heldout_colour
from tests.systems.cogview2.tiny import tiny_cogview2
from tests.systems.muse.tiny import tiny_pipeline


def run(*arguments):
    command = [sys.executable, "-m", "experiments.generate", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_command_draws_what_the_pipeline_draws(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "model", "float32")
    out, options = tmp_path / "images" / "dog.png", ["--seed=3", "--sampling=num_steps=2"]
    done = run("--prompt=a dog", f"--model={tmp_path}/model", f"--out={out}", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"Written to {out}\n")
    assert "4/4 steps" in done.stderr and "superres" in done.stderr
    expected = tiny_pipeline().generate(["a dog"], seed=3, num_steps=2)[0]
    assert np.abs(np.asarray(Image.open(out)).astype(int) - expected).max() <= 1
    assert [path.name for path in out.parent.iterdir()] == ["dog.png"]


@pytest.mark.slow
def test_two_processes_write_the_image_of_one_once(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "model", "float32")
    options = ["--prompt=a dog", "--prompt=a tree", f"--model={tmp_path}/model", "--sampling=num_steps=2"]
    alone = run(*options, f"--out={tmp_path}/one.png")
    assert alone.returncode == 0, alone.stderr
    common = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    addresses = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    processes = []
    for index in range(2):
        out = f"--out={tmp_path}/process_{index}/two.png"
        command = [sys.executable, "-m", "experiments.generate", *options, out, "--mesh=data=2,tensor=2"]
        environment = {**os.environ, **common, **addresses, "JAX_PROCESS_ID": str(index)}
        said = (tmp_path / f"said_{index}").open("w")
        processes.append(subprocess.Popen(command, env=environment, stdout=said, stderr=said))
    codes = [process.wait() for process in processes]
    assert codes == [0, 0], [(tmp_path / f"said_{index}").read_text() for index in range(2)]
    assert (tmp_path / "process_0" / "two.png").read_bytes() == (tmp_path / "one.png").read_bytes()
    assert not (tmp_path / "process_1" / "two.png").exists()


@pytest.mark.parametrize("mesh", ["data", "data=0", "width=2", "data=2;fsdp=2", "data=2,fsdp=-2"])
def test_a_mesh_that_cannot_be_read_is_refused(mesh):
    with pytest.raises(ValueError, match="write AXIS=SIZE with an axis of data, fsdp, tensor"):
        parse_mesh(mesh)


def test_no_mesh_is_one_device_and_one_axis_takes_what_is_left():
    assert parse_mesh("") is None
    assert dict(parse_mesh("fsdp=-1").shape) == {"data": 1, "fsdp": jax.device_count(), "tensor": 1}


class TestCogView2:
    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory):
        directory = tmp_path_factory.mktemp("cogview2")
        tiny_cogview2().save_pretrained(directory, "float32")
        return directory

    def test_an_option_of_another_system_is_refused(self, model, tmp_path):
        done = run(
            "--prompt=a bee", f"--model={model}", f"--out={tmp_path}/bee.png", "--sampling=num_steps=3"
        )
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert "num_steps is 3, but this CogView2Pipeline has no such sampling parameter" in done.stderr

    @pytest.mark.slow
    def test_command_draws_every_image_that_is_kept(self, model, tmp_path):
        out = tmp_path / "bee.png"
        options = ["--seed=3", "--sampling=num_candidates=3", "--num_samples=2", "--grid=2"]
        done = run("--prompt=a bee", f"--model={model}", f"--out={out}", *options)
        assert done.returncode == 0, done.stderr
        assert "9/9 steps" in done.stderr
        kept = tiny_cogview2().generate(["a bee"], num_candidates=3, num_samples=2, seed=3)[0]
        expected = np.asarray(captioned_grid(kept, ["a bee"] * 2, 2)).astype(int)
        assert np.abs(np.asarray(Image.open(out)).astype(int) - expected).max() <= 2


def test_an_unwritable_place_is_told_before_the_model_is_loaded(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("--prompt=a dog", "--model=nowhere", f"--out={tmp_path}/file/dog.png")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "cannot be written" in done.stderr, done.stderr


def test_outputs_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is not the name of an image: use the suffix \.png"):
        check_output(tmp_path / "dog.txt")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match="is a directory"):
        check_output(tmp_path / "folder.png")
    assert check_output(tmp_path / "new" / "dog.png").parent.is_dir()


@pytest.mark.parametrize("count, columns, across, down", [(5, 0, 4, 2), (5, 2, 2, 3), (2, 9, 2, 1)])
def test_grid_shows_every_image_and_its_caption(count, columns, across, down):
    colours = np.array([[i * 40, 90, 200 - i * 30] for i in range(count)], np.uint8)
    images = np.broadcast_to(colours[:, None, None], (count, 32, 32, 3))
    sheet = np.asarray(captioned_grid(images, ["a caption of many long words"] * count, columns, "legend"))
    shown = [np.argwhere((sheet == colour).all(-1)) for colour in colours]
    side = 192  # 32 pixels, enlarged by a whole number to at least this
    assert [len(pixels) for pixels in shown] == [side * side] * count
    corners = [tuple(pixels.min(0)) for pixels in shown]
    assert len({x for _, x in corners}) == across and len({y for y, _ in corners}) == down
    for y, x in corners:  # ink under each image, and two lines of it
        caption = sheet[y + side : y + side + 42, x : x + side]
        assert (caption[:20] < 128).any() and (caption[22:] < 128).any()


def test_demo_marks_the_colours_that_a_concept_was_never_trained_in():
    icons = [re.search(r"(\w+) (\w+) icons? on", prompt) for prompt, _ in DEMO]
    marks = {found: unseen for found, (_, unseen) in zip(icons, DEMO, strict=True) if found}
    assert len(DEMO) == 8 and len(marks) == 5
    for found, unseen in marks.items():
        colour, concept = found.groups()
        assert (heldout_colour(concept) == colour) == unseen
