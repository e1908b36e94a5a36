from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from muse_jax.checkpointing.source import open_source
from muse_jax.data import write_precomputed
from muse_jax.system import make_task
from muse_jax.systems.cogview2.sequences import image_to_text, text_to_image
from muse_jax.systems.cogview2.tasks import mean_over, sums_over
from muse_jax.text import train_text_pieces
from muse_jax.tokenizers import cluster_codebook, codebook_rows
from muse_jax.tokenizers.clusters import FILE
from muse_jax.training import validate_config
from tests.systems.conftest import PIECES
from tests.systems.probing import random_params

MODEL = {
    "vocab_size": 16 + PIECES + 3,
    "grid": (4, 4),
    "text_length": 12,
    "image_position": 12,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "mlp_dim": 32,
}


@pytest.fixture(scope="module")
def config(coglm_config):
    config = coglm_config.copy_and_resolve_references()
    config.model = MODEL
    return config


@pytest.fixture(scope="module")
def ready(config):
    task = make_task(validate_config(config))
    return (
        task,
        random_params(task.init),
        task.frozen(),
        next(task.make_loader("train", 0)),
    )


def test_every_batch_has_the_kinds_shares(ready):
    task, _, _, batch = ready
    text, mask = (np.repeat(batch[name], 5, axis=0) for name in ("caption_ids", "caption_mask"))
    image = np.zeros((20, 16), np.int32)
    plain = text_to_image(task.vocabulary, text, mask, image)
    caption = image_to_text(task.vocabulary, text, mask, image)
    samples = jax.jit(task.samples)
    for seed in range(3):
        tokens = samples(jax.random.key(seed), image, text, mask).tokens
        kind = [
            int(np.array_equal(row, b)) - int(np.array_equal(row, a))
            for row, a, b in zip(tokens, plain.tokens, caption.tokens, strict=True)
        ]
        assert kind.count(1) == 6 and kind.count(-1) == 14  # 30 % of 20


def test_sequences_of_text_alone_leave_the_other_kinds_their_shares(config):
    config = config.copy_and_resolve_references()
    config.loss = {"patch": 2, "text_only": 0.4, "image_to_text": 0.5}
    task = make_task(validate_config(config))
    text, mask = np.zeros((20, 11), np.int32), np.ones((20, 11), bool)
    samples = jax.jit(task.samples)(jax.random.key(0), np.zeros((20, 16), np.int32), text, mask)
    alone = np.asarray(samples.ranks[:, -1]) < 0  # there is no image
    caption = np.asarray(samples.tokens[:, 0]) == task.vocabulary.start_of_text
    assert alone.sum() == 8  # 40 % of 20, and half of the rest each
    assert (~alone & caption).sum() == (~alone & ~caption).sum() == 6


def test_images_are_encoded_for_the_loss_and_for_the_scores(ready):
    task, params, frozen, batch = ready
    loss, _ = jax.eval_shape(task.loss, params, frozen, batch, jax.random.key(0), 0)
    scores = jax.eval_shape(task.evaluate, params, frozen, batch, None)
    assert loss.shape == () and scores["image_cross_entropy"][0].shape == (4,)


def test_stored_features_are_read_in_place_of_images(ready):
    task, _, frozen, batch = ready
    features = jax.jit(task.features)(frozen, batch["image"])
    assert features["tokens"].shape == (4, 16) and len(np.unique(features["tokens"])) > 1
    stored = {name: value for name, value in batch.items() if name != "image"} | features
    for given, read in zip(task.inputs(frozen, stored), jax.jit(task.inputs)(frozen, batch), strict=True):
        np.testing.assert_array_equal(given, read)


def test_features_are_the_codes_of_the_image(ready):
    task, _, frozen, _ = ready
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    params = frozen["tokenizers"]["tokenizer"]
    codes = task.tokenizer.encode(params, jnp.asarray(images / 127.5 - 1, jnp.float32)).reshape(2, -1)
    assert len(np.unique(codes)) > 1
    np.testing.assert_array_equal(task.features(frozen, images)["tokens"], codes)


def test_means_and_sums_are_over_the_marked_losses():
    losses = np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    where = np.array([[True, False, True], [False, False, True]])
    np.testing.assert_allclose(mean_over(losses, where), (1 + 4 + 32) / 3)
    assert mean_over(losses, np.zeros((2, 3), bool)) == 0
    np.testing.assert_allclose(mean_over(losses[:1, :1], where[:1, :1]), 1)
    sums, counts = sums_over(losses, where)
    np.testing.assert_array_equal(sums, [5, 32])
    np.testing.assert_array_equal(counts, [2, 1])


def test_the_task_describes_its_batches_without_reading_any(ready):
    task, _, _, batch = ready
    shapes = {name: value.shape for name, value in task.batch_shapes().items()}
    assert shapes == {name: np.shape(value) for name, value in batch.items()}


@pytest.mark.slow
def test_preview_and_scores_with_cluster_sampling(config, ready):
    changed = config.copy_and_resolve_references()
    changed.sampling.top_clusters = 2
    task, (_, params, _, batch) = make_task(validate_config(changed)), ready
    with pytest.raises(ValueError, match="There are no clusters in .*experiments.cluster_codebook"):
        task.frozen()
    rows = codebook_rows(task.tokenizer, open_source(config.tokenizer).tokenizer().params)
    cluster_codebook(rows, 4).save(Path(config.tokenizer) / FILE)
    frozen = task.frozen()
    described = jax.tree.map(lambda leaf: leaf.shape, nn.unbox(task.frozen_shapes()))
    assert described == jax.tree.map(np.shape, frozen)
    images = jax.jit(task.preview)(params, frozen, batch, jax.random.key(0))["samples"]
    assert images.shape == (8, 32, 32, 3) and images.dtype == jnp.uint8
    scores = jax.jit(task.evaluate)(params, frozen, batch, jax.random.split(jax.random.key(0), 4))
    for name in ("image_cross_entropy", "text_cross_entropy"):
        sums, weights = scores[name]
        np.testing.assert_allclose(sums / weights, np.log(MODEL["vocab_size"]), rtol=0.1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": {"grid": (2, 2)}}, r"config.model.grid is \(2, 2\), but the tokenizer"),
        ({"model": {"vocab_size": 18}}, "vocab_size is 18, but the vocabulary has 18 tokens, of which 16"),
        ({"loss": {"image_to_text": 1.5}}, "config.loss.image_to_text is 1.5: it must be between 0 and 1"),
        ({"loss": {"patch": 9}}, "config.loss.patch is 9: it must be between 2 and 4"),
        ({"loss": {"patch": 1}}, "config.loss.patch is 1: it must be between 2 and 4"),
        ({"loss": {"patchs": 2}}, "did you mean loss.patch"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_sentence(config, change, message):
    changed = config.copy_and_resolve_references()
    for section, values in change.items():
        changed[section] = {**config[section], **values}
    with pytest.raises(ValueError, match=message):
        make_task(validate_config(changed))


def test_pieces_that_do_not_fit_are_refused_before_training(config, tmp_path):
    changed = config.copy_and_resolve_references()
    changed.model = {**MODEL, "vocab_size": 30}
    with pytest.raises(
        ValueError, match="leaves room for 11 beside image codes and special tokens: set it to"
    ):
        make_task(validate_config(changed)).make_loader("train", 0)
    changed = config.copy_and_resolve_references()
    changed.text_pieces = str(tmp_path / "none.model")
    with pytest.raises(ValueError, match="There is no sentencepiece model"):
        make_task(validate_config(changed)).make_loader("train", 0)


def test_a_run_is_tied_to_the_content_of_its_tokenizer_and_its_pieces(config, ready, tmp_path):
    task, *_ = ready
    hashes = task.tokenizer_hashes()
    assert hashes["tokenizer"] == open_source(config.tokenizer).tokenizer().encoder_hash
    train_text_pieces(["another text"] * 40, tmp_path / "other.model", 20)
    changed = config.copy_and_resolve_references()
    changed.text_pieces = str(tmp_path / "other.model")
    other = make_task(validate_config(changed)).tokenizer_hashes()
    assert hashes["tokenizer"] == other["tokenizer"] and hashes["text_pieces"] != other["text_pieces"]


def test_features_of_other_pieces_are_refused(config, tmp_path):
    arrays = {
        "tokens": np.zeros((4, 16), np.uint16),
        "caption_ids": np.zeros((4, 1, 11), np.int32),
        "caption_mask": np.ones((4, 1, 11), bool),
    }
    changed = config.copy_and_resolve_references()
    changed.data.features = str(tmp_path)
    task = make_task(validate_config(changed))
    write_precomputed(tmp_path / "train", arrays, {"origins": task.origins})
    next(task.make_loader("train", 0))
    train_text_pieces(["another text"] * 40, tmp_path / "other.model", 20)
    changed.text_pieces = str(tmp_path / "other.model")
    with pytest.raises(ValueError, match="were made with config.text_pieces=.* whose content was not"):
        make_task(validate_config(changed)).make_loader("train", 0)
