"""A system of another package goes through every command, and nothing here knows it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.planning.programs import planned, trace_generate, trace_train
from muse_jax import load_pipeline
from muse_jax.checkpointing.source import open_source
from muse_jax.sharding.partitioning import one_device_mesh
from muse_jax.system import make_task
from muse_jax.training import (
    default_config,
    evaluate_params,
    evaluate_run,
    stage_config,
    train,
    validate_config,
)
from tests.toy.pipeline import ToyPipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config(image_folder, tokenizer):
    config = default_config("tests.toy", "bag_of_words")
    config.tokenizer, config.model = tokenizer, {"vocab_size": 16, "grid": (4, 4)}
    config.data.update(source=f"folder:{image_folder}", eval_split="train", batch_size=4, image_size=32)
    config.optim.update(lr=1e-2, warmup_steps=1)
    config.update(total_steps=3, log_every=1, eval_every=3, preview_every=3, checkpoint_every=3)
    return validate_config(config)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """The workdir of a run of the toy system."""
    workdir = tmp_path_factory.mktemp("toy")
    train(config, make_task(config), workdir)
    return workdir


def test_it_is_trained_and_evaluated(config, run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert list((run / "previews").iterdir())
    result, _ = evaluate_run(config, make_task(config), run)
    assert result["examples"] == 8 and 0 < result["scores"]["cross_entropy"] < np.log(16) + 0.5


def test_it_is_exported_loaded_and_generates(run, tmp_path):
    pipe = ToyPipeline.from_sources({"base": open_source(run)})
    pipe.save_pretrained(tmp_path, "float32")
    loaded = load_pipeline(tmp_path)
    assert type(loaded) is ToyPipeline and loaded.base.network == pipe.base.network
    images = loaded.generate(["color number 3"], num_samples=2, seed=1, temperature=0.5)
    assert images.shape == (1, 2, 32, 32, 3) and images.dtype == np.uint8
    same = pipe.generate(["color number 3"], num_samples=2, seed=1, temperature=0.5)
    np.testing.assert_array_equal(images, same)


def test_the_network_of_a_pretrained_directory_scores_like_its_run(config, run, tmp_path):
    ToyPipeline.from_sources({"base": open_source(run)}).save_pretrained(tmp_path / "toy", "float32")
    given = {**config.to_dict(), "model": {}, "tokenizer": "runs/gone"}
    chosen = validate_config(stage_config(open_source(tmp_path / "toy"), "base", given))
    params = open_source(tmp_path / "toy").network("base").params
    found, _ = evaluate_params(chosen, make_task(chosen), lambda: params, tmp_path / "partial", {})
    expected, _ = evaluate_run(config, make_task(config), run)
    assert found["scores"] == pytest.approx(expected["scores"], rel=1e-6)


@pytest.mark.parametrize("stage, task", [("superres", "bag_of_words"), ("base", "vqgan")])
def test_a_stage_that_the_config_does_not_train_is_refused(config, run, stage, task):
    with pytest.raises(ValueError, match=f"--stage={stage} is not a network of .* give one of base, and"):
        stage_config(open_source(run), stage, {**config.to_dict(), "task": task})


def test_a_tokenizer_is_not_measured_as_a_stage(config, tokenizer):
    given = {**config.to_dict(), "system": "vqgan", "task": "vqgan"}
    with pytest.raises(ValueError, match="--stage=vqgan is the tokenizer of .* with --tokenizer=tokenizer"):
        stage_config(open_source(tokenizer), "vqgan", given)


def test_parameters_of_another_network_are_refused(config, run, tmp_path):
    other = validate_config({**config.to_dict(), "model": {"vocab_size": 16, "grid": (4, 4), "width": 8}})
    params = open_source(run).trained_params()
    with pytest.raises(ValueError, match="parameters, such as .* are not those of the task"):
        evaluate_params(other, make_task(other), lambda: params, tmp_path, {})


def test_it_is_planned(config):
    with planned(config, lambda name: None) as described:
        step = trace_train(described, one_device_mesh())
        program = trace_generate(described, None, one_device_mesh())
    assert step.flops > 0 and step.frozen > 0 and program.parameters > step.parameters
    assert program.lower().as_text().startswith("module @jit_generate")


@pytest.mark.slow
def test_every_command_takes_it(image_folder, tmp_path):
    """The real commands on the config file, from training to an image."""

    def command(program, *arguments, devices=1):
        line = [sys.executable, "-m", f"experiments.{program}", *arguments]
        environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr

    data = [f"--config.data.source=folder:{image_folder}", "--config.data.eval_split=train"]
    config = ["--config=tests/toy/config.py", *data]
    command("train", *config, f"--workdir={tmp_path}/run")
    command("evaluate", f"--workdir={tmp_path}/run")
    command("prepare_features", *config, f"--out={tmp_path}/features", "--splits=train")
    command("train", *config, f"--workdir={tmp_path}/again", f"--config.data.features={tmp_path}/features")
    command("export", f"--run={tmp_path}/run", f"--out={tmp_path}/model")
    measured = ["--stage=base", "--evaluators=loss", f"--out={tmp_path}/scores.json"]
    command("evaluate", f"--model={tmp_path}/model", *measured, *config)
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    command("evaluate", f"--model={tmp_path}/model", *measured, *config, "--config.mesh.data=2", devices=2)
    assert json.loads((tmp_path / "scores.json").read_text())["scores"] == pytest.approx(scores, rel=1e-5)
    command("generate", f"--model={tmp_path}/model", "--prompt=color", f"--out={tmp_path}/image.png")
    assert Image.open(tmp_path / "image.png").size == (64, 64)
    command("plan", *config, "--topology=v5e:2x2", f"--out={tmp_path}/plans.jsonl")
    plan = json.loads((tmp_path / "plans.jsonl").read_text())
    assert plan["program"] == "train"
