"""Stored features: bound by content to what made them, whatever they hold of captions."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.data import write_precomputed
from muse_jax.system import make_task
from muse_jax.training import Checkpoints, TrainState, restore_params, validate_config
from muse_jax.training import task as task_module
from muse_jax.training.task import Task
from tests.systems.conftest import MODEL, tiny_config
from tests.systems.muse.test_tasks import BASE, base_config


@pytest.fixture
def own_tokenizer(tokenizer, tmp_path):
    """A tokenizer's workdir that a test may change."""
    return shutil.copytree(tokenizer, tmp_path / "vqgan")


def make_features(config, folder, **arrays):
    """Writes features of `config` that are right but for their values and the given arrays."""
    task = make_task(validate_config(config))
    right = {
        "tokens": np.zeros((4, 16), np.uint8),
        "text_states": np.zeros((4, 1, 24, 384), np.float16),
        "text_mask": np.ones((4, 1, 24), bool),
    }
    write_precomputed(Path(folder) / "train", right | arrays, {"origins": task.origins})


def load(config, folder):
    config.data.features = str(folder)
    return make_task(validate_config(config)).make_loader("train", 0)


def retrain(workdir, part):
    """Adds a checkpoint to a run whose weights of `part` are a little different."""
    params = restore_params(workdir)
    params["generator"][part] = jax.tree.map(lambda leaf: leaf * (1 + 1e-6), params["generator"][part])
    zero = jnp.zeros((), jnp.int32)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(2, TrainState(zero, params, params, {"count": zero}, zero), 0)
    checkpoints.wait()
    checkpoints.close()


def test_features_of_a_tokenizer_retrained_in_place_are_refused(image_folder, own_tokenizer, tmp_path):
    config = base_config(image_folder, str(own_tokenizer))
    make_features(config, tmp_path)
    next(load(config, tmp_path))
    retrain(own_tokenizer, "encoder")
    with pytest.raises(ValueError, match="config.tokenizer=.*whose content was not what .*compute them"):
        load(config, tmp_path)


def test_features_serve_a_tokenizer_moved_or_with_another_decoder(image_folder, own_tokenizer, tmp_path):
    make_features(base_config(image_folder, str(own_tokenizer)), tmp_path)
    moved = own_tokenizer.rename(tmp_path / "elsewhere")
    retrain(moved, "decoder")
    next(load(base_config(image_folder, str(moved)), tmp_path))


def test_features_without_a_hash_are_refused(image_folder, tokenizer, tmp_path):
    config = base_config(image_folder, tokenizer)
    make_features(config, tmp_path)
    meta = tmp_path / "train" / "meta.json"
    stored = json.loads(meta.read_text())
    del stored["origins"]
    meta.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="have no record of the weights"):
        load(config, tmp_path)


def test_features_of_another_text_encoder_are_refused(image_folder, tokenizer, tmp_path):
    config = base_config(image_folder, tokenizer)
    make_features(config, tmp_path)
    meta = tmp_path / "train" / "meta.json"
    meta.write_text(meta.read_text().replace('"minilm",', '"t5:xl",').replace(_hash_of_text(meta), "0" * 64))
    with pytest.raises(ValueError, match="made with config.data.text_encoder='t5:xl'"):
        load(config, tmp_path)


def _hash_of_text(meta):
    return json.loads(meta.read_text())["origins"]["data.text_encoder"][1]


@pytest.mark.parametrize(
    "arrays, message",
    [
        (
            {"text_states": np.zeros((4, 1, 16, 384), np.float16), "text_mask": np.ones((4, 1, 16), bool)},
            r"text_mask of shape \(16,\) an example, but this config wants \(24,\)",
        ),
        ({"tokens": np.zeros((4, 64), np.uint8)}, r"tokens of shape \(64,\) .* wants \(16,\)"),
    ],
)
def test_features_of_other_shapes_are_refused(image_folder, tokenizer, tmp_path, arrays, message):
    config = base_config(image_folder, tokenizer)
    make_features(config, tmp_path, **arrays)
    with pytest.raises(ValueError, match=message):
        load(config, tmp_path)


def test_states_where_the_config_reads_ids_are_refused(image_folder, tokenizer, tmp_path):
    config = base_config(image_folder, tokenizer)
    make_features(config, tmp_path)
    config.data.text_features = "ids"
    with pytest.raises(ValueError, match="lack 'caption_ids', .* set config.data.text_features"):
        load(config, tmp_path)


@pytest.mark.parametrize("stored", ["none", "flip"])
def test_an_augmentation_that_the_features_do_not_have_is_refused(monkeypatch, image_folder, stored):
    source = SimpleNamespace(meta={"augment": stored})
    config = tiny_config("vqgan", image_folder)
    config.model, config.data.features = MODEL, "stored"
    monkeypatch.setattr(task_module, "load_source", lambda *_: source)
    monkeypatch.setattr(task_module, "make_loader", lambda source, **options: options["augment"])
    monkeypatch.setattr(Task, "check_features", lambda self, source: None)
    for augment in ("none", "flip", "zoom"):
        config.data.augment = augment
        if augment in ("none", stored):
            assert Task(config).read("train", 0) == "none"  # the images are not augmented once more
        else:
            with pytest.raises(ValueError, match=f"augment is '{augment}', but .* augmented by '{stored}'"):
                Task(config).read("train", 0)


@pytest.mark.parametrize("kind", ["states", "ids"])
def test_a_step_on_features_has_the_arguments_that_were_announced(image_folder, tokenizer, kind):
    config = base_config(image_folder, tokenizer)
    config.data.features, config.data.text_features = "anywhere", kind
    task = make_task(validate_config(config))
    shapes = task.batch_shapes()
    assert ("caption_ids" in shapes) == (kind == "ids") == bool(task.frozen_shapes()["text"])
    assert shapes["tokens"].shape == (4, 16) and BASE["grid"] == (4, 4)
    params = jax.eval_shape(task.init, jax.random.key(0))
    frozen = jax.eval_shape(lambda: jax.tree.map(jnp.zeros_like, task.frozen_shapes()))
    loss, _ = jax.eval_shape(task.loss, params, frozen, shapes, jax.random.key(0), 0)
    assert loss.shape == ()
