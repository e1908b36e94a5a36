"""Every paper-size config, made small, from its start to images: on meshes and on two processes."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.launch import shrink
from tests.launch.commands import ONE_DEVICE, Command, Layout, call

LAYOUTS = (
    Layout(data=2),
    Layout(fsdp=2),
    Layout(tensor=2),
    Layout(data=2, fsdp=2, tensor=2),
    Layout(fsdp=2, tensor=2, processes=2),
)
ONE_OF_EACH_TASK = {
    "muse/vqgan_f16_256": Layout(data=2),
    "muse/vqgan_f8_512_decoder": Layout(data=2),
    "muse/base_3b": Layout(fsdp=2),
    "muse/superres_268m": Layout(tensor=2),
    "cogview2/coglm_6b": Layout(fsdp=2),
    "cogview2/direct_superres": Layout(tensor=2),
    "cogview2/iterative_superres": Layout(data=2),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Compiled programs, shared by the commands of a launch and by configs that differ in sizes alone."""
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return Path(given) if given else tmp_path_factory.mktemp("xla")


class Launch:
    """The commands of a config's run in a folder that holds what it reads."""

    def __init__(self, name: str, layout: Layout, folder: Path, cache: Path):
        self.run = name.split("/")[1]
        self.workdir = folder / "runs" / self.run
        self.layout, self.folder, self.cache = layout, folder, cache
        mesh = {"mesh.data": layout.data, "mesh.fsdp": layout.fsdp, "mesh.tensor": layout.tensor}
        self.arguments = [f"--config={shrink.REPOSITORY}/configs/{name}.py", f"--workdir=runs/{self.run}"]
        self.arguments += shrink.overrides({**shrink.sizes(name), **mesh})
        call(folder, shrink.write_inputs, self.run)

    def command(self, program: str, *arguments: str, layout: Layout = ONE_DEVICE) -> Command:
        return Command(self.folder, self.cache, program, *arguments, layout=layout)

    def train(self) -> Command:
        """Starts the run, or goes on with it; it would last a million steps."""
        return self.command("train", *self.arguments, layout=self.layout)

    def wait_for_two_steps(self, train: Command) -> None:
        """Waits for the first checkpoint, which comes after an evaluation and a preview."""
        train.wait_for(lambda: (self.workdir / "checkpoints/2").is_dir())
        rows = [json.loads(line) for line in (self.workdir / "metrics.jsonl").read_text().splitlines()]
        losses = [row["loss"] for row in rows if row["kind"] == "train"]
        assert len(losses) >= 2 and all(map(math.isfinite, losses))
        assert any(row["kind"] == "eval" for row in rows)
        assert list((self.workdir / "previews").iterdir())

    def stop(self, train: Command) -> None:
        """Ends the run by SIGTERM, which saves it."""
        train.terminate()
        assert train.end() == 143, train.output()
        assert "Stopped at step" in train.output()

    def evaluate(self) -> dict[str, float]:
        """The scores of the run on its mesh."""
        self.command("evaluate", f"--workdir=runs/{self.run}", layout=self.layout).succeed()
        return json.loads((self.workdir / "scores_validation.json").read_text())["scores"]

    def export(self) -> None:
        """Writes a pipeline with the run in it, the rest untrained, to the folder `model`."""
        runs = shrink.EXPORTS[self.run]
        call(self.folder, shrink.write_runs, list(runs))
        flags = [f"--run=runs/{run}" for run in runs]
        if self.run in shrink.TOKENIZERS:
            call(self.folder, shrink.write_runs, [self.run])
            flags.append(f"--tokenizer={shrink.TOKENIZERS[self.run]}")
        self.command("export", *flags, "--out=model").succeed()

    def generate(self, layout: Layout) -> np.ndarray:
        """An image of the pipeline, drawn on a mesh."""
        mesh = f"--mesh=data={layout.data},fsdp={layout.fsdp},tensor={layout.tensor}"
        options = ["--model=model", "--prompt=red", "--out=image.png", mesh]
        self.command("generate", *options, layout=layout).succeed()
        return np.asarray(Image.open(self.folder / "image.png"))


def assert_same_image(image: np.ndarray, other: np.ndarray) -> None:
    """The tokens are the same; sums in another order may round a pixel to the next of its 256 levels."""
    difference = np.abs(image.astype(int) - other)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= difference.size / 100


def test_every_task_of_the_paper_size_configs_is_launched():
    tasks = {name: shrink.load(name).task for name in shrink.config_names()}
    assert {tasks[name] for name in ONE_OF_EACH_TASK} == set(tasks.values())


@pytest.mark.parametrize("name, layout", ONE_OF_EACH_TASK.items(), ids=str)
def test_a_config_trains_evaluates_draws_and_saves_on_two_devices(name, layout, tmp_path, cache):
    launch = Launch(name, layout, tmp_path, cache)
    train = launch.train()
    launch.wait_for_two_steps(train)
    launch.stop(train)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", shrink.config_names())
def test_a_config_goes_from_its_start_to_images(name, layout, tmp_path, cache):
    launch = Launch(name, layout, tmp_path, cache)
    train = launch.train()
    launch.wait_for_two_steps(train)
    train.kill()

    train = launch.train()
    train.wait_for(lambda: "resuming from step" in train.output())
    train.wait_for(lambda: train.output().count("  loss") >= 2)
    launch.stop(train)

    scores = launch.evaluate()
    assert scores and all(map(math.isfinite, scores.values()))
    launch.export()
    image = launch.generate(ONE_DEVICE)
    if layout.processes == 1:
        assert_same_image(launch.generate(layout), image)
