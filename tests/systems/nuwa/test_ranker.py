"""The ranker's embeddings: what they depend on, their length, and the choice among candidates, by loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.systems.nuwa.ranker import VideoRanker, best_clips, repeat_rows
from tests.systems.probing import random_params

RANKER = VideoRanker(widths=(8, 16), depth=1, text_dim=6, embed_dim=5)
RNG = np.random.default_rng(0)
CLIPS = RNG.integers(0, 256, (4, 3, 16, 16, 3), np.uint8)
STATES = RNG.normal(size=(4, 7, 6)).astype(np.float32)
MASK = np.arange(7) < np.array([[1], [3], [7], [5]])


@pytest.fixture(scope="module")
def variables():
    return {"params": random_params(lambda key: RANKER.init(key, *RANKER.example_inputs())["params"])}


@pytest.fixture(scope="module")
def embed(variables):
    """Embeddings of videos and of texts."""
    return {
        name: jax.jit(lambda *inputs, name=name: RANKER.apply(variables, *inputs, method=name))
        for name in ("videos", "texts")
    }


def test_embeddings_have_length_1_and_differ(embed):
    for found in (embed["videos"](CLIPS), embed["texts"](STATES, MASK)):
        assert found.shape == (4, 5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
        assert np.abs(found[:, None] - found[None]).max(-1)[~np.eye(4, dtype=bool)].min() > 0.01


def test_the_order_of_frames_matters(embed):
    assert np.abs(embed["videos"](CLIPS) - embed["videos"](CLIPS[:, ::-1])).max() > 0.01


def test_masked_states_have_no_influence_and_others_have(embed):
    before = embed["texts"](STATES, MASK)
    noise = RNG.normal(size=STATES.shape).astype(np.float32)
    np.testing.assert_array_equal(embed["texts"](np.where(MASK[..., None], STATES, noise), MASK), before)
    changed = embed["texts"](np.where(MASK[..., None], noise, STATES), MASK)
    assert (np.abs(changed - before).max(axis=1) > 0.01).all()


def test_a_video_does_not_depend_on_others_of_its_batch(embed):
    np.testing.assert_allclose(embed["videos"](CLIPS[2:]), embed["videos"](CLIPS)[2:], atol=1e-5)


def test_an_image_is_a_video_of_one_frame(embed):
    assert embed["videos"](CLIPS[:, :1]).shape == (4, 5)


def test_the_call_scales_similarities_and_stops_at_its_limit(variables, embed):
    videos, texts = embed["videos"](CLIPS), embed["texts"](STATES, MASK)
    for log_scale, factor in ((np.log(20.0), 20.0), (9.0, 100.0)):
        params = {**variables["params"], "log_scale": jnp.float32(log_scale)}
        scaled, same = jax.jit(RANKER.apply)({"params": params}, CLIPS, STATES, MASK)
        np.testing.assert_allclose(scaled, factor * videos, atol=1e-3)
        np.testing.assert_allclose(same, texts, atol=1e-5)


def test_the_best_candidate_of_each_text_is_that_of_loops(variables, embed):
    candidates = RNG.integers(0, 256, (6, 3, 16, 16, 3), np.uint8)
    choose = jax.jit(lambda *inputs: best_clips(RANKER, variables["params"], *inputs))
    best = choose(candidates, (STATES[:2], MASK[:2]))
    videos, texts = np.asarray(embed["videos"](candidates)), np.asarray(embed["texts"](STATES[:2], MASK[:2]))
    for row in range(2):
        scores = [sum(videos[3 * row + n] * texts[row]) for n in range(3)]
        np.testing.assert_array_equal(best[row], candidates[3 * row + int(np.argmax(scores))])
    other = choose(candidates, (STATES[2:], MASK[2:]))
    assert (other != best).any()  # the text decides


def test_rows_are_repeated_one_after_the_other():
    repeated, none = repeat_rows((np.array([[1, 2], [3, 4]]), None), 2)
    np.testing.assert_array_equal(repeated, [[1, 2], [1, 2], [3, 4], [3, 4]])
    assert none is None


def test_frames_of_another_size_are_refused(variables):
    with pytest.raises(ValueError, match="frames of 12x16 pixels, but this network reads multiples of 8"):
        RANKER.apply(variables, CLIPS[:, :, :12], method="videos")
