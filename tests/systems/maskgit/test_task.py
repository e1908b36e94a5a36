"""Class-conditional training: the loss by its rule, the shipped config at a small size, its plan."""

import importlib
import json

import jax
import numpy as np
import pytest

from experiments.planning.programs import planned, trace_generate, trace_train
from muse_jax import load_pipeline
from muse_jax.sampling import sample_mask
from muse_jax.sharding.partitioning import one_device_mesh
from muse_jax.system import make_task
from muse_jax.systems.maskgit.convert import convert_maskgit
from muse_jax.systems.maskgit.task import class_caption
from muse_jax.training import train, validate_config
from tests.systems.maskgit import released


class Labelled:
    """Records as TFDS' imagenet2012 gives them: gray images, brighter with the number of their class."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        image = np.full((6, 5, 3), 40 * (index % 5), np.uint8)
        return {"image": image, "label": np.int64(index % 5), "caption": f"n0144{index}", "name": str(index)}


def shipped():
    """The config at its full size."""
    return importlib.import_module("configs.maskgit.imagenet_256").get_config()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maskgit")
    released.write_released(folder)
    convert_maskgit(folder).save_pretrained(folder / "model", "float32")
    config = shipped()
    config.tokenizer = str(folder / "model")
    config.model.update(
        vocab_size=released.CODES,
        num_classes=released.CLASSES,
        grid=(2, 2),
        width=8,
        depth=2,
        heads=2,
        mlp_dim=16,
        dtype="float32",
    )
    config.data.update(batch_size=4, image_size=4, workers=0, eval_split="train")
    config.optim.warmup_steps = 1
    config.mesh.data = 1
    config.sampling.num_steps = 2
    config.update(total_steps=2, log_every=1, eval_every=2, preview_every=2, checkpoint_every=2)
    return validate_config(config)


def test_the_loss_is_the_smoothed_cross_entropy_of_masked_tokens(config):
    task = make_task(config)
    task.network = task.network.clone(dropout=0.0)
    params = load_pipeline(config.tokenizer).transformer.params
    tokens = np.random.default_rng(0).integers(0, released.CODES, (2, 4))
    ids, mask = task.tokenize(["3", "0"])
    batch = {"tokens": tokens, "caption_ids": ids, "caption_mask": mask}
    key = jax.random.key(1)
    loss, scores = jax.jit(task.loss)(params, {}, batch, key, 0)
    masked = np.asarray(sample_mask(jax.random.split(key)[0], 2, 4))
    hidden = np.where(masked, released.CODES + released.CLASSES, tokens)
    logits = task.network.apply({"params": params}, hidden, np.array([3, 0]))
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    smooth = [
        -0.9 * log_probs[b, n, tokens[b, n]] - 0.1 * log_probs[b, n].mean() for b, n in np.argwhere(masked)
    ]
    assert loss == pytest.approx(np.mean(smooth), abs=1e-5)
    assert scores["weight"] == masked.sum()


@pytest.mark.slow
def test_the_shipped_config_trains_at_a_small_size(config, tmp_path, monkeypatch):
    monkeypatch.setattr("muse_jax.training.task.load_source", lambda *_: Labelled())
    task = make_task(config)
    batch = next(iter(task.make_loader("train", 0)))
    brightness = batch["image"].mean((1, 2, 3)).round().astype(int)
    np.testing.assert_array_equal(batch["caption_ids"][:, 0], brightness // 40)
    train(config, task, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows].count("train") == 2
    assert list((tmp_path / "previews").iterdir())
    assert load_pipeline(tmp_path).generate([1]).shape == (1, 4, 4, 3)


def test_the_class_is_the_label_or_the_caption():
    rng = np.random.default_rng(0)
    assert class_caption({"label": np.int64(7), "captions": ["cat"]}, rng) == "7"
    assert class_caption({"captions": ["12"]}, rng) == "12"


@pytest.mark.slow
def test_it_is_planned_where_the_checkpoint_is_not_there():
    config = shipped()
    config.mesh.data = 1
    with planned(validate_config(config), lambda name: None) as described:
        step = trace_train(described, one_device_mesh())
        program = trace_generate(described, None, one_device_mesh())
    # 24 layers of 7.09M, 2025 + 257 embeddings, the head; 227M are published with the tokenizer.
    assert step.parameters == pytest.approx(173e6, rel=0.02)
    assert program.parameters == step.parameters + step.frozen == pytest.approx(227e6, rel=0.02)
