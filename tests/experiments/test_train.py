"""The command line: it trains on a folder of pictures, goes on, and says in one sentence what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import apps

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/smoke/vqgan.py")


def command(program, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{program}", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Eight pictures of one colour each, for training, and four to score."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    lines = []
    for index in range(12):
        pixels = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (16, 16, 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{index}.png")
        split = "train" if index < 8 else "test"
        lines.append(json.dumps({"file": f"{index}.png", "caption": "a colour", "split": split}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def test_it_trains_goes_on_and_scores(pictures, tmp_path):
    workdir = tmp_path / "run"
    arguments = [
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        f"--config.data.source=folder:{pictures}",
        "--config.data.eval_split=test",
    ]
    first = command("train", *arguments, "--config.total_steps=2")
    assert first.returncode == 0, first.stderr
    assert "step 2/2  loss" in first.stderr
    second = command("train", *arguments)
    assert second.returncode == 0, second.stderr
    assert "going on from step 2" in second.stderr and "step 4/4  loss" in second.stderr
    scored = command("evaluate", f"--workdir={workdir}", "--batches=1")
    assert scored.returncode == 0, scored.stderr
    result = json.loads((workdir / "scores_test.json").read_text())
    assert result["step"] == 4 and 0 < result["scores"]["psnr"] < 60
    other = command("train", *arguments, "--config.model.filters=16")
    assert other.returncode == 1
    assert "holds a run with model.filters = 8, but this config has 16" in other.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.optim.lrr=1"], "Unknown config key 'config.optim.lrr': did you mean config.optim.lr?"),
        (
            ["--config.optim.lr=fast"],
            "flag --config.optim.lr=fast: could not convert string to float: 'fast'.",
        ),
        (["--wrkdir=x"], "Unknown command line flag 'wrkdir'. Did you mean: workdir ?."),
        (["--config.task=vqgann"], "Config key 'task' is 'vqgann', but it must be one of"),
        (["--config.data.batch_size=0"], "Config key 'data.batch_size' is 0, but it must be at least 1."),
    ],
)
def test_a_mistake_is_one_sentence(arguments, message, tmp_path):
    done = command("train", f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", *arguments)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_is_a_file(pictures, tmp_path):
    (tmp_path / "file").write_text("")
    source = f"--config.data.source=folder:{pictures}"
    done = command("train", f"--config={CONFIG}", f"--workdir={tmp_path / 'file'}", source)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cannot be written to (" in done.stderr.splitlines()[-1]


def test_config_files_take_an_argument_and_must_be_there(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "import ml_collections\ndef get_config(size='s'):\n    return ml_collections.ConfigDict({'a': size})"
    )
    assert apps.load_config_file(str(path)).a == "s"
    assert apps.load_config_file(f"{path}:xl").a == "xl"
    with pytest.raises(ValueError, match="does not exist"):
        apps.load_config_file(str(tmp_path / "other.py"))
    path.write_text("")
    with pytest.raises(ValueError, match="has no function get_config"):
        apps.load_config_file(str(path))
