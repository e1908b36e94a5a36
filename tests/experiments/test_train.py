"""The command line: it trains on a folder of images, goes on, and says in one sentence what is wrong."""

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
def image_folder(tmp_path_factory):
    """Eight images of one colour each, for training, and four to score."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    lines = []
    for index in range(12):
        pixels = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (16, 16, 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{index}.png")
        split = "train" if index < 8 else "test"
        lines.append(json.dumps({"file": f"{index}.png", "caption": "a colour", "split": split}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def test_it_trains_goes_on_traces_steps_and_scores(image_folder, tmp_path):
    workdir = tmp_path / "run"
    arguments = [
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        f"--config.data.source=folder:{image_folder}",
        "--config.data.eval_split=test",
    ]
    first = command("train", *arguments, "--config.total_steps=2")
    assert first.returncode == 0, first.stderr
    assert "step 2/2  loss" in first.stderr
    second = command("train", *arguments, "--config.profile_steps=3,4")
    assert second.returncode == 0, second.stderr
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    assert "resuming from step 2" in second.stderr and "step 4/4  loss" in second.stderr
    out = tmp_path / "scores.json"
    options = ["--evaluators=loss", "--options=split=train", f"--out={out}"]
    scored = command("evaluate", f"--workdir={workdir}", *options)
    assert scored.returncode == 0, scored.stderr
    result = json.loads(out.read_text())
    assert result["step"] == 4 and 0 < result["scores"]["psnr"] < 60
    assert result["examples"] == 8  # of the split that --options names; the config's has four
    refused = command("evaluate", f"--workdir={workdir}", "--options=split=train")
    assert "belongs to --evaluators" in refused.stderr.splitlines()[-1]
    other = command("train", *arguments, "--config.model.filters=16")
    assert other.returncode == 1
    assert "holds a run with model.filters = 8, but this config has 16" in other.stderr.splitlines()[-1]


MISTAKES = [
    (["--config.optim.lrr=1"], "Unknown config key 'config.optim.lrr': did you mean config.optim.lr?"),
    (["--config.optim.lr=fast"], "flag --config.optim.lr=fast: could not convert string to float: 'fast'."),
    (["--wrkdir=x"], "Unknown command line flag 'wrkdir'. Did you mean: workdir ?."),
    (["--config.task=vqgann"], "Config key 'task' is 'vqgann', but it must be one of"),
    (["--config.data.batch_size=0"], "Config key 'data.batch_size' is 0, but it must be at least 1."),
    (["stray"], "Unexpected argument 'stray': options are written --name=value."),
    (["--config=nowhere.py"], "The config file 'nowhere.py' does not exist"),
    (["--workdir="], "Give --config=FILE and --workdir=DIR"),
    (["--workdir=FILE"], "The workdir FILE cannot be written to (File exists)"),
]
# Imports once, then forks for each command: nothing has touched a device by then.
DRIVER = """
import json, os, sys
from experiments import apps, train
import muse_jax.systems.vqgan

for arguments in json.loads(sys.argv[1]):
    if os.fork() == 0:
        sys.argv = ["train.py", *arguments]
        apps.run(train.main)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    print(f"[{code}]", file=sys.stderr, flush=True)
"""


def test_a_mistake_is_one_sentence(image_folder, tmp_path):
    (tmp_path / "file").write_text("")
    common = [f"--config={CONFIG}", "--workdir=run", f"--config.data.source=folder:{image_folder}"]
    commands = []
    for (mistake,), _ in MISTAKES:
        mistake = mistake.replace("FILE", str(tmp_path / "file"))
        # A flag of the same name takes the place of the usual one.
        kept = [arg for arg in common if arg.split("=")[0] != mistake.split("=")[0]]
        first = mistake.startswith("--config=")
        commands.append([mistake, *kept] if first else [*kept, mistake])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(commands)],
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    assert lines[1::2] == ["[1]"] * len(MISTAKES), done.stderr  # one line each, and the exit status 1
    for line, (_, message) in zip(lines[::2], MISTAKES, strict=True):
        assert message.replace("FILE", str(tmp_path / "file"), message.count("workdir FILE")) in line
    assert not (tmp_path / "run").exists()


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


def test_options_are_python_literals_or_words():
    assert apps.parse_options("clips=98,order=halton,lr=1e-3") == {"clips": 98, "order": "halton", "lr": 1e-3}
    assert apps.parse_options("") == {}
    with pytest.raises(ValueError, match="--options=clips has the part 'clips': write --options=NAME=VALUE"):
        apps.parse_options("clips", "options")
