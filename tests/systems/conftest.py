"""A folder of captioned images, and the workdir of a tiny tokenizer over them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from muse_jax.checkpointing.run_config import save_config
from muse_jax.system import find_system, make_task
from muse_jax.text import train_text_pieces
from muse_jax.training import Checkpoints, TrainState, default_config, validate_config
from tests.systems.probing import random_params

MODEL = {
    "filters": 8,
    "multipliers": (1, 2),
    "num_res_blocks": 1,
    "patch": 4,
    "codebook_size": 16,
    "embed_dim": 4,
}
SYSTEM_OF = {task: system for system in ("vqgan", "muse", "cogview2") for task in find_system(system).tasks}
PIECES = 40  # of text, that the images' captions give


def tiny_config(task, folder):
    config = default_config(SYSTEM_OF[task], task)
    config.data.update(source=f"folder:{folder}", eval_split="train", batch_size=4, image_size=32)
    config.update(total_steps=1, eval_every=0, preview_every=0, checkpoint_every=1, log_every=1)
    return config


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    with open(folder / "captions.jsonl", "w") as lines:
        for i in range(8):
            color = rng.integers(0, 256, 3)
            Image.fromarray(np.broadcast_to(color, (32, 32, 3)).astype(np.uint8)).save(folder / f"{i}.png")
            lines.write(json.dumps({"file": f"{i}.png", "caption": f"color number {i}"}) + "\n")
    return folder


def save_untrained(config, workdir):
    """Saves a run of `config` with drawn weights, where training would only cost time; returns them."""
    config = validate_config(config)
    workdir.mkdir()
    save_config(workdir, config)
    params = random_params(make_task(config).init)
    zero = jnp.zeros((), jnp.int32)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(1, TrainState(zero, params, params, {"count": zero}, zero), 0)
    checkpoints.wait()
    checkpoints.close()
    return params


@pytest.fixture(scope="session")
def tokenizer(image_folder, tmp_path_factory):
    """Workdir of a tiny f8 tokenizer."""
    config = tiny_config("vqgan", image_folder)
    config.model = MODEL
    workdir = tmp_path_factory.mktemp("runs") / "vqgan"
    save_untrained(config, workdir)
    return str(workdir)


@pytest.fixture(scope="session")
def coglm_config(image_folder, tokenizer, tmp_path_factory):
    """Of a CogLM on that tokenizer and PIECES pieces of text; it lacks the model."""
    file = tmp_path_factory.mktemp("pieces") / "tiny.model"
    lines = (image_folder / "captions.jsonl").read_text().splitlines()
    train_text_pieces([json.loads(line)["caption"] for line in lines] * 4, file, PIECES)
    config = tiny_config("coglm", image_folder)
    config.loss = {"patch": 2}
    config.tokenizer, config.text_pieces = tokenizer, str(file)
    return config


@pytest.fixture
def compilations():
    """How many programs XLA has compiled since the test began."""
    events = []

    def listen(event, duration, **rest):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)
