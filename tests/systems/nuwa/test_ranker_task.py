"""Training of the ranker: the contrastive loss by loops, a short run."""

import jax
import numpy as np
import pytest

from muse_jax.system import make_task
from muse_jax.systems.nuwa.ranker_task import contrast, same_captions
from muse_jax.training import default_config, validate_config
from tests.systems.probing import cross_entropy, random_params, recorded, train_on

RNG = np.random.default_rng(0)
TEXT = 24
CLIPS = RNG.integers(0, 256, (4, 2, 2, 2, 3)).astype(np.uint8).repeat(8, 2).repeat(8, 3)
IDS = RNG.integers(5, 999, (4, TEXT)).astype(np.int32)
MASK = np.arange(TEXT) < np.array([[4], [5], [6], [9]])
STATES = RNG.normal(size=(4, TEXT, 384)).astype(np.float32)
CAPTIONS = {"caption_ids": IDS, "caption_mask": MASK}
BATCH = {"video": CLIPS, **CAPTIONS, "text_states": STATES, "text_mask": MASK}
KEY = jax.random.key(0)


def make(loss=(), **data):
    config = default_config("nuwa", "video_ranker")
    config.model = {"widths": (8, 16), "depth": 1, "text_dim": 384, "embed_dim": 8}
    config.loss = dict(loss)
    config.data.update({"batch_size": 4, "image_size": 16, "frames": 2, "source": "folder:none", **data})
    return make_task(validate_config(config))


def test_contrast_is_the_mean_of_both_cross_entropies_by_loops():
    logits = RNG.normal(size=(3, 3)).astype(np.float32) * 3
    losses, found = contrast(logits, np.eye(3, dtype=bool))
    expected = [(cross_entropy(logits[b], b) + cross_entropy(logits[:, b], b)) / 2 for b in range(3)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_array_equal(found, [logits[b].argmax() == b for b in range(3)])


def test_pairs_of_equal_captions_do_not_count():
    logits = RNG.normal(size=(3, 3)).astype(np.float32)
    same = np.eye(3, dtype=bool)
    same[0, 2] = same[2, 0] = True
    losses, _ = contrast(logits, same)
    alone = (cross_entropy(logits[0, :2], 0) + cross_entropy(logits[:2, 0], 0)) / 2
    np.testing.assert_allclose(losses[0], alone, rtol=1e-5)


def test_further_rows_are_wrong_for_every_text():
    logits = RNG.normal(size=(5, 3)).astype(np.float32)
    losses, found = contrast(logits, np.eye(3, dtype=bool))
    expected = [(cross_entropy(logits[b], b) + cross_entropy(logits[:, b], b)) / 2 for b in range(3)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert found.shape == (3,)


def test_captions_are_equal_where_their_unmasked_ids_are():
    ids = np.array([[1, 2, 7], [1, 2, 8], [1, 3, 7], [1, 2, 7]])
    mask = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1]], bool)
    expected = np.eye(4, dtype=bool)
    expected[0, 1] = expected[1, 0] = True
    np.testing.assert_array_equal(same_captions({"caption_ids": ids, "caption_mask": mask}), expected)


def test_the_loss_is_the_weighted_sum_over_videos_and_frames():
    task = make({"image": 0.25})
    params = random_params(task.init)
    loss = recorded(task.network, lambda batch: task.loss(params, {}, batch, KEY, 0))
    (total, scalars), [(videos, (video, texts)), (images, (image, _))] = loss(BATCH)
    np.testing.assert_array_equal(videos[0], np.concatenate([CLIPS, CLIPS[:, ::-1]]))
    assert images[0].shape == (4, 1, 16, 16, 3)
    for row in range(4):
        assert any(np.array_equal(images[0][row, 0], frame) for frame in CLIPS[row])
    means = []
    for embeddings in (video, image):
        logits = np.asarray(embeddings, np.float64) @ np.asarray(texts, np.float64).T
        rows = [
            cross_entropy(logits[b], b) + cross_entropy(logits[:, b], b) for b in range(4)
        ]  # columns: all
        means.append(np.mean(rows) / 2)
    np.testing.assert_allclose([scalars["video"], scalars["image"]], means, rtol=1e-4)
    np.testing.assert_allclose(total, means[0] + 0.25 * means[1], rtol=1e-4)


def test_evaluation_scores_each_video():
    task = make()
    params = random_params(task.init)
    scores = jax.jit(task.evaluate)(params, {}, BATCH, jax.random.split(KEY, 4))
    videos, texts = jax.jit(task.network.apply)({"params": params}, CLIPS, STATES, BATCH["text_mask"])
    losses, found = contrast(videos @ texts.T, np.eye(4, dtype=bool))
    np.testing.assert_allclose(scores["cross_entropy"][0], losses, rtol=1e-4)
    np.testing.assert_array_equal(scores["found"][0], found)


def test_stored_features_are_refused():
    with pytest.raises(ValueError, match="the task 'video_ranker' reads pixels"):
        make(features="data/features")


@pytest.mark.slow
def test_a_short_run_tells_clips_from_others_and_from_their_reverse():
    scalars = train_on(make({"image": 0.0}), {}, BATCH, steps=100)
    assert scalars["video"][-1] < 0.1 < scalars["video"][0]
