"""Training of VQGAN-Seg: its loss and scores by hand, a run on eight sketches, and a run's tokenizer."""

import jax
import numpy as np
import pytest
from scipy.special import log_softmax

from muse_jax.checkpointing.source import open_source
from muse_jax.system import make_task
from muse_jax.tokenizers import VQGANSeg
from muse_jax.training import validate_config
from tests.systems.conftest import MODEL, save_untrained, tiny_config
from tests.systems.probing import random_params, train_on

KEY = jax.random.key(1)
WEIGHTS = {"cross_entropy": 0.9, "codebook": 0.7, "commitment": 0.3}


def lines(count, size):
    """Sketches: a black cross at a place of its own on white."""
    rng, images = np.random.default_rng(0), np.full((count, size, size, 3), 255, np.uint8)
    for image, (row, column) in zip(images, rng.integers(0, size, (count, 2)), strict=True):
        image[row], image[:, column] = 0, 0
    return images


def make_config(folder, **loss):
    config = tiny_config("vqgan_seg", folder)
    config.model, config.loss = MODEL, loss
    return config


@pytest.fixture(scope="module")
def task(image_folder):
    return make_task(validate_config(make_config(image_folder, **WEIGHTS)))


def test_loss_and_scores_are_cross_entropy_and_accuracy_by_hand(task):
    params, batch = random_params(task.init), {"image": lines(4, 16)}

    @jax.jit
    def run(params):
        loss, scalars = task.loss(params, {}, batch, KEY, 0)
        variables, images = {"params": params["generator"]}, batch["image"] / 127.5 - 1
        logits, quantized = task.vqgan.apply(variables, images)
        vectors = task.vqgan.apply(variables, images, method="encode_vectors")
        scores = task.evaluate(params, {}, batch, jax.random.split(KEY, 4))
        return loss, scalars, logits, quantized.ids, vectors, scores

    loss, scalars, logits, ids, vectors, scores = jax.device_get(run(params))
    classes = (batch["image"][..., 0] > 127).astype(int)
    nats = -np.take_along_axis(log_softmax(logits.astype(float), axis=-1), classes[..., None], -1)[..., 0]
    right = (logits[..., 1] > logits[..., 0]) == classes
    np.testing.assert_allclose(scalars["cross_entropy"], nats.mean(), rtol=1e-4)
    np.testing.assert_allclose(scalars["pixel_accuracy"], right.mean(), rtol=1e-5)
    nearest = np.asarray(params["generator"]["quantizer"]["codebook"])[ids]
    for name in ("codebook", "commitment"):
        np.testing.assert_allclose(scalars[name], np.mean((nearest - vectors) ** 2), rtol=1e-3, err_msg=name)
    expected = sum(weight * scalars[name] for name, weight in WEIGHTS.items())
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(scores["cross_entropy"][0], nats.mean((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(scores["pixel_accuracy"][0], right.mean((1, 2)), rtol=1e-5)
    histogram = [np.bincount(row.ravel(), minlength=16) / row.size for row in ids]
    np.testing.assert_allclose(scores["histogram"][0], histogram, atol=1e-6)


@pytest.mark.slow
def test_a_short_run_learns_eight_sketches(task):
    scalars = train_on(task, {"generator": {}}, {"image": lines(8, 32)}, steps=400)
    assert scalars["cross_entropy"][:5].mean() > 0.3
    assert scalars["cross_entropy"][-1] < 0.05 and scalars["pixel_accuracy"][-1] > 0.98


@pytest.mark.slow
def test_a_run_is_opened_as_a_tokenizer(image_folder, tmp_path):
    params = save_untrained(make_config(image_folder), tmp_path / "run")
    loaded = open_source(tmp_path / "run").tokenizer()
    assert loaded.module == VQGANSeg(**MODEL) and hash(loaded.module)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(params["generator"])
