"""What works without the extras: every command starts, and one that needs an extra names it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What the extras bring, made as if it were not installed. Python runs this file at its start.
SITE = """
import sys
for name in (
    "array_record", "flatbuffers", "grain", "importlib_resources", "libtpu", "matplotlib", "resvg_py",
    "tensorboardX", "tensorflow_datasets",
):
    sys.modules[name] = None
"""
START_ALL = """
import importlib, pathlib
from absl import flags

for file in sorted(pathlib.Path("experiments").rglob("*.py")):
    module = ".".join(file.with_suffix("").parts)
    importlib.import_module(module)
    for flag in list(flags.FLAGS.flags_by_module_dict().get(module, [])):
        delattr(flags.FLAGS, flag.name)  # the next command has one of that name
"""
READ_ALL = """
import pathlib, sys
from experiments.apps import load_config_file
from muse_jax.training import load_config, validate_config
from muse_jax.checkpointing.run_config import save_config

for file in sorted(pathlib.Path("configs").rglob("[!_]*.py")):
    save_config(sys.argv[1], validate_config(load_config_file(str(file))))
    assert load_config(sys.argv[1])
"""


@pytest.fixture
def core_python(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SITE)

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    return run


def test_every_command_starts(core_python):
    done = core_python("-c", START_ALL)
    assert done.returncode == 0, done.stderr


def test_every_config_can_be_read(core_python, tmp_path):
    done = core_python("-c", READ_ALL, tmp_path)
    assert done.returncode == 0, done.stderr


def test_training_names_its_extra(core_python, tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"file": "a.png", "caption": "a"}\n' * 8)
    options = ("--config=configs/smoke/vqgan.py", f"--workdir={tmp_path / 'run'}")
    done = core_python("-m", "experiments.train", *options, f"--config.data.source=folder:{tmp_path}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "This command needs the package grain, which is not installed: "
        "install the extra 'train' with `pip install -e '.[train]'`."
    )


def test_planning_names_its_extra(core_python):
    done = core_python("-m", "experiments.plan", "--config=configs/muse/base_3b.py", "--topology=v5e:16x16")
    assert done.returncode == 1
    assert "pip install -e '.[plan]'" in done.stderr.splitlines()[-1]
