"""Fine-tuning of aMUSEd: the loss by its rule, the shipped config at a small size, its plan."""

import functools
import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.planning.programs import planned, trace_generate, trace_train
from muse_jax import load_pipeline
from muse_jax.sampling import sample_mask
from muse_jax.sharding.partitioning import one_device_mesh
from muse_jax.system import make_task
from muse_jax.training import train, validate_config
from tests.systems.amused.tiny import NETWORK, tiny_pipeline

ROOT = Path(__file__).parents[3]
SIZES = ("vocab_size", "codebook_size", "grid", "width", "depth", "heads", "mlp_dim", "channels")
SIZES = (*SIZES, "conv_blocks", "conv_heads", "embed_dim", "text_dim", "pooled_dim", "micro_dim")


def shipped():
    """The config at its full size."""
    return importlib.import_module("configs.amused.finetune_256").get_config()


def small(checkpoint, images):
    """What makes the config small, by dotted key."""
    return {
        **{f"model.{name}": getattr(NETWORK, name) for name in SIZES},
        **dict.fromkeys(("tokenizer", "text_encoder", "init_from"), str(checkpoint)),
        **{"data.source": f"folder:{images}", "data.eval_split": "train", "data.image_size": 8},
        **{"data.batch_size": 4, "data.workers": 0, "optim.warmup_steps": 1, "sampling.num_steps": 2},
        **{"total_steps": 2, "log_every": 1, "eval_every": 2, "preview_every": 2, "checkpoint_every": 2},
        "mesh.data": 1,
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("amused")
    tiny_pipeline(folder / "words").save_pretrained(folder / "model", "float32")
    return folder / "model"


@pytest.fixture(scope="module")
def config(checkpoint, image_folder):
    config = shipped()
    config.update_from_flattened_dict({**small(checkpoint, image_folder), "model.dtype": "float32"})
    return validate_config(config)


def test_the_loss_is_the_cross_entropy_of_masked_tokens_given_text_and_micro_conditions(config):
    task = make_task(config)
    task.weights["text_dropout"] = 0.0
    frozen, params = task.frozen(), load_pipeline(config.init_from).transformer.params
    rng = np.random.default_rng(0)
    ids, mask = task.tokenize(["red", "blue car"])
    tokens = rng.integers(0, 16, (2, 16))
    batch = {"tokens": jnp.asarray(tokens), "caption_ids": ids, "caption_mask": mask}
    key = jax.random.key(4)
    loss, scores = jax.jit(task.loss)(params, frozen, batch, key, 0)
    masked = np.asarray(sample_mask(jax.random.split(key)[0], 2, 16))
    encoder = task.prompt_encoder
    encode = jax.jit(functools.partial(encoder.module.apply, method="penultimate"))
    states = encode({"params": encoder.params}, ids, mask.sum(1) - 1)
    micro = np.tile(np.array([[8.0, 8, 0, 0, 6]], np.float32), (2, 1))
    logits = jax.jit(NETWORK.apply)({"params": params}, np.where(masked, 19, tokens), *states, micro)
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    expected = [-log_probs[b, n, tokens[b, n]] for b, n in np.argwhere(masked)]
    assert loss == pytest.approx(np.mean(expected), abs=1e-5)
    assert scores["weight"] == masked.sum()


@pytest.mark.slow
def test_the_shipped_config_trains_at_a_small_size(config, tmp_path):
    train(config, make_task(config), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows].count("train") == 2
    assert any(row["kind"] == "eval" and row["accuracy"] >= 0 for row in rows)
    assert list((tmp_path / "previews").iterdir())
    tuned, given = load_pipeline(tmp_path), load_pipeline(config.init_from)
    change = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), tuned.transformer.params, given.transformer.params
    )
    # Two steps from the given weights, averaged.
    assert 0 < max(jax.tree.leaves(change)) < 1e-3
    assert tuned.sampling()["transformer"].num_steps == 2
    assert tuned.prompt_encoder.module == given.prompt_encoder.module


@pytest.mark.slow
def test_it_is_planned_where_the_checkpoint_is_not_there():
    config = shipped()
    config.mesh.data = 1
    with planned(validate_config(config), lambda name: None) as described:
        step = trace_train(described, one_device_mesh())
        program = trace_generate(described, None, one_device_mesh())
    assert step.parameters == 603_537_664
    # The trained step holds CLIP's text encoder and the tokenizer as well, and its states of the empty text.
    assert 860e6 < program.parameters <= step.parameters + step.frozen


@pytest.mark.slow
def test_the_commands(checkpoint, image_folder, tmp_path):
    def command(program, *arguments):
        line = [sys.executable, "-m", f"experiments.{program}", *arguments]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    config = [f"--config={ROOT}/configs/amused/finetune_256.py"]
    config += [f"--config.{key}={value}" for key, value in small(checkpoint, image_folder).items()]
    command("train", *config, f"--workdir={tmp_path}/run")
    command("evaluate", f"--workdir={tmp_path}/run")
    command("export", f"--run={tmp_path}/run", f"--out={tmp_path}/model")
    command("generate", f"--model={tmp_path}/model", "--prompt=red car", f"--out={tmp_path}/image.png")
    assert Image.open(tmp_path / "image.png").size == (8, 8)
    command("plan", *config, "--topology=v5e:2x2", f"--out={tmp_path}/plans.jsonl")
