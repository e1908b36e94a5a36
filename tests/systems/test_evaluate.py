"""Scores over a split: each example once, weighted by what its mean is over, whatever the batch size."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from muse_jax.evaluation.evaluators import Context, make_evaluators
from muse_jax.media.image import to_unit_range
from muse_jax.sampling import sample_mask
from muse_jax.sharding.partitioning import make_mesh, replicated
from muse_jax.system import find_system, make_task
from muse_jax.training import validate_config
from muse_jax.training.evaluate import put_frozen
from muse_jax.training.task import Task
from tests.systems.conftest import MODEL, tiny_config
from tests.systems.muse.test_tasks import BASE
from tests.systems.probing import random_params

EXAMPLES = 15


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """A folder with 15 noisy images in the split "val"."""
    folder = tmp_path_factory.mktemp("split")
    rng, lines = np.random.default_rng(0), []
    for i in range(EXAMPLES):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"{i}.png")
        lines.append(json.dumps({"file": f"{i}.png", "caption": f"noise number {i}", "split": "val"}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def split_config(task, split, tokenizer, batch_size=4):
    config = tiny_config(task, split)
    config.data.update(eval_split="val", batch_size=batch_size)
    config.eval_batches = 0
    if task == "base":
        config.model, config.tokenizer = BASE, tokenizer
    else:
        config.model, config.loss = MODEL, {"perceptual": 0.0, "adversarial": 0.0}
    return validate_config(config)


def fresh_params(task):
    return random_params(task.init)


def scores_of(config):
    """The scores of untrained weights, and how many examples they are of."""
    mesh, task = make_mesh(config.mesh), make_task(config)
    with jax.set_mesh(mesh):
        params = jax.device_put(fresh_params(task), replicated(mesh))
        frozen = put_frozen(task, mesh)
        (evaluator,) = make_evaluators(Context(task, config, mesh))
        report = evaluator(params, frozen)
        return report.scores, report.details["examples"]


class DrawnPixels(Task):
    """Scores without a network: the mean over images, and over pixels that each image's key draws."""

    def init(self, key):
        return {}

    frozen = frozen_shapes = lambda self: {}

    def evaluate(self, params, frozen, batch, keys):
        pixels = batch["image"].astype(jnp.float32)
        drawn = jax.vmap(lambda key: jax.random.bernoulli(key, jax.random.uniform(key), (32, 32, 3)))(keys)
        return {
            "images": (jnp.mean(pixels, (1, 2, 3)), jnp.ones(len(pixels))),
            "drawn": (jnp.sum(pixels * drawn, (1, 2, 3)), jnp.sum(drawn, (1, 2, 3))),
        }


def test_scores_do_not_depend_on_the_batch_size(monkeypatch, split, tokenizer):
    monkeypatch.setitem(find_system("vqgan").tasks, "vqgan", DrawnPixels)
    found = [scores_of(split_config("vqgan", split, tokenizer, size)) for size in (4, 5, 15, 16)]
    assert [examples for _, examples in found] == [EXAMPLES] * 4
    pixels = [np.asarray(Image.open(split / f"{i}.png"), np.float64) for i in range(EXAMPLES)]
    keys = [jax.random.fold_in(jax.random.key(0), i) for i in range(EXAMPLES)]
    drawn = [np.asarray(jax.random.bernoulli(k, jax.random.uniform(k), (32, 32, 3))) for k in keys]
    expected = {"images": np.mean(pixels), "drawn": np.mean(np.array(pixels)[np.array(drawn)])}
    for scores, _ in found:
        assert scores == pytest.approx(expected, rel=1e-6)


def test_masked_cross_entropy_and_accuracy_are_means_over_all_masked_tokens(split, tokenizer):
    config = split_config("base", split, tokenizer)
    scores, examples = scores_of(config)
    task = make_task(config)
    params, frozen = fresh_params(task), task.frozen()
    read = jax.jit(task.inputs)
    predict = jax.jit(lambda *inputs: task.network.apply({"params": params}, *inputs))
    losses, right = [], []
    for batch in task.eval_loader("val"):
        tokens, _, states, text_mask = read(frozen, batch)
        keys = [jax.random.fold_in(jax.random.key(config.seed), index) for index in batch["index"]]
        masked = np.array([sample_mask(key, 1, 16)[0] for key in keys])
        logits = np.asarray(predict(np.where(masked, 16, tokens), states, text_mask), np.float64)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for row, place in zip(*np.nonzero(masked & batch["example_mask"][:, None]), strict=True):
            losses.append(-log_probs[row, place, tokens[row, place]])
            right.append(np.argmax(logits[row, place]) == tokens[row, place])
    assert examples == EXAMPLES
    assert scores == pytest.approx({"cross_entropy": np.mean(losses), "accuracy": np.mean(right)}, rel=1e-5)


def test_reconstruction_scores_are_means_over_images_and_usage_is_of_the_split(split, tokenizer):
    config = split_config("vqgan", split, tokenizer)
    scores, _ = scores_of(config)
    task = make_task(config)
    params = fresh_params(task)
    rebuild = jax.jit(lambda images: task.reconstruct(params, {"generator": {}}, images))
    psnrs, codes = [], set()
    for batch in task.eval_loader("val"):
        images = np.asarray(to_unit_range(batch["image"]), np.float64)
        rebuilt, quantized = rebuild(np.float32(images))
        for row in np.flatnonzero(batch["example_mask"]):
            error = np.mean((np.clip(rebuilt[row], -1, 1) - images[row]) ** 2)
            psnrs.append(10 * np.log10(4 / error))
            codes |= set(np.asarray(quantized.ids[row]).ravel().tolist())
    assert len(psnrs) == EXAMPLES
    assert scores["psnr"] == pytest.approx(np.mean(psnrs), rel=1e-5)
    assert scores["usage"] == pytest.approx(len(codes) / MODEL["codebook_size"])


def test_eval_batches_bounds_what_is_scored(split, tokenizer):
    config = split_config("vqgan", split, tokenizer)
    with config.unlocked():
        config.eval_batches = 2
    assert scores_of(config)[1] == 8


def test_a_split_that_is_scored_is_neither_augmented_nor_shuffled_anew(split, tokenizer):
    config = split_config("vqgan", split, tokenizer)
    with config.unlocked():
        config.data.augment = "flip"
    task = make_task(config)
    batches = list(task.eval_loader("val"))
    for batch, again in zip(batches, task.make_loader("val", 7), strict=True):
        np.testing.assert_array_equal(batch["index"], again["index"])
        for index, image in zip(batch["index"], batch["image"], strict=True):
            np.testing.assert_array_equal(image, np.asarray(Image.open(split / f"{index}.png")))
    # The training split too, where it is what the config scores.
    with config.unlocked():
        config.data.split = "val"
    for batch, again in zip(batches, make_task(config).eval_loader("val"), strict=True):
        np.testing.assert_array_equal(batch["image"], again["image"])


def test_captions_that_are_scored_are_plain(monkeypatch, split, tokenizer):
    class Source:
        def __len__(self):
            return 8

        def __getitem__(self, index):
            image = np.zeros((32, 32, 3), np.uint8)
            return {"image": image, "concept": f"thing {index}", "style": "noto", "tags": ["a", "b", "c"]}

    monkeypatch.setattr("muse_jax.training.task.load_source", lambda *_: Source())
    task = make_task(split_config("base", split, tokenizer, batch_size=8))
    said = []
    monkeypatch.setattr(
        type(task), "tokenize", lambda self, texts: said.extend(texts) or (np.ones((8, 2)),) * 2
    )
    batch = next(task.eval_loader("val"))
    assert said == [f"a noto emoji of a thing {index}" for index in batch["index"]]
    said.clear()
    next(task.make_loader("train", 0))
    assert any(not text.startswith("a noto emoji of a thing") or "," in text for text in said)
