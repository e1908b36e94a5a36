"""The objectives of NUWA's training on explicit tokens and texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from muse_jax.system import make_task
from muse_jax.systems.nuwa.ranker import best_clips
from muse_jax.training import default_config, validate_config
from tests.systems.conftest import save_untrained
from tests.systems.probing import cross_entropy, norm, random_params, recorded, train_on

CODES, TEXT, FRAME = 16, 24, 4
MODEL = {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 16, "text_dim": 384, "code_dim": 4}
RNG = np.random.default_rng(0)
TOKENS, SKETCHES = RNG.integers(0, CODES, (2, 6, 2 * FRAME))
STATES = RNG.normal(size=(6, TEXT, 384)).astype(np.float16)
MASK = np.arange(TEXT) < RNG.integers(1, TEXT, (6, 1))
BATCH = {"tokens": TOKENS, "sketch_tokens": SKETCHES, "text_states": STATES, "text_mask": MASK}
NULL = {
    "null_text": RNG.normal(size=(1, TEXT, 384)).astype(np.float32),
    "null_mask": np.arange(TEXT)[None] < 2,
}
KEY = jax.random.key(1)


def make_config(tokenizer, model=(), **loss):
    config = default_config("nuwa", "nuwa")
    config.model = {**MODEL, "vocab_size": CODES, "grid": (2, 2, 2), **dict(model)}
    config.tokenizer, config.loss = tokenizer, loss
    config.data.update(batch_size=6, image_size=16, frames=2, source="folder:none", eval_split="train")
    return config


def make(tokenizer, model=(), **loss):
    return make_task(validate_config(make_config(tokenizer, model, **loss)))


@pytest.fixture(scope="module")
def probed(tokenizer):
    """The task on sketches, weights, and its loss with the calls of the network."""
    task = make(tokenizer, {"condition_depth": 1}, text_dropout=0.0, prediction=2.0)
    params = random_params(task.init)
    return task, params, recorded(task.network, lambda batch: task.loss(params, NULL, batch, KEY, 0))


def test_each_objective_reads_its_rows_with_their_text(probed):
    _, _, loss = probed
    _, [(image, _), (sketch, _), (clips, _)] = loss(BATCH)
    assert image[0].shape == (6, FRAME)
    for b in range(6):
        assert any(np.array_equal(image[0][b], frame) for frame in TOKENS[b].reshape(2, FRAME))
    np.testing.assert_array_equal(image[1], STATES)
    np.testing.assert_array_equal(sketch[0], TOKENS[[2, 5]])  # rows by turns: text, prediction, sketch
    np.testing.assert_array_equal(sketch[1], STATES[[2, 5]])
    np.testing.assert_array_equal(sketch[3], SKETCHES[[2, 5]].reshape(2, 2, 2, 2))
    np.testing.assert_array_equal(clips[0], TOKENS[[0, 1, 3, 4]])
    for row, b in enumerate((0, 1, 3, 4)):
        predicted = b in (1, 4)
        np.testing.assert_array_equal(clips[1][row], NULL["null_text"][0] if predicted else STATES[b])
        np.testing.assert_array_equal(clips[2][row], NULL["null_mask"][0] if predicted else MASK[b])


def test_the_loss_is_the_weighted_sum_of_mean_cross_entropies_by_loops(probed):
    _, _, loss = probed
    (total, scalars), [(image, frame_logits), (_, sketch_logits), (_, clip_logits)] = loss(BATCH)

    def mean(logits, labels, rows, first=0):
        places = range(first, len(labels[0]))
        return np.mean([cross_entropy(logits[r][n], labels[r][n]) for r in rows for n in places])

    clips = TOKENS[[0, 1, 3, 4]]
    expected = {
        "text_to_image": mean(frame_logits, image[0], range(6)),
        "text_to_video": mean(clip_logits, clips, (0, 2)),
        "prediction": mean(clip_logits, clips, (1, 3), FRAME),
        "sketch_to_video": mean(sketch_logits, TOKENS[[2, 5]], (0, 1)),
    }
    assert set(scalars) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(scalars[name], value, rtol=1e-4)
    np.testing.assert_allclose(total, sum(expected.values()) + expected["prediction"], rtol=1e-4)


def test_the_last_token_of_a_clip_moves_no_logit_of_it(probed):
    _, _, loss = probed
    changed = TOKENS.copy()
    changed[:, -1] = (changed[:, -1] + 1) % CODES
    (before, _), [_, (_, sketch), (_, clips)] = loss(BATCH)
    (after, _), [_, (_, same_sketch), (_, same_clips)] = loss({**BATCH, "tokens": changed})
    np.testing.assert_array_equal(sketch, same_sketch)
    np.testing.assert_array_equal(clips, same_clips)
    assert abs(after - before) > 0.01


@pytest.mark.parametrize("sketches", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_only_sketches_train_their_encoder(tokenizer, sketches):
    task = make(
        tokenizer, {"condition_depth": 1}, text_to_image=0.0, prediction=0.0, sketch_to_video=sketches
    )
    loss = jax.jit(jax.grad(lambda params, batch: task.loss(params, NULL, batch, KEY, 0)[0]))
    grads = loss(random_params(task.init), BATCH)
    assert (norm(grads["encoder"]) > 0) == (norm(grads["condition_inputs"]) > 0) == (sketches > 0)
    assert norm(grads["text_projection"]) > 0 and norm(grads["decoder"]) > 0


def test_masked_networks_see_no_token_that_they_predict(tokenizer):
    task = make(tokenizer, {"shift": "none"}, text_to_image=0.0)
    params = random_params(task.init)
    loss = recorded(task.network, lambda batch: task.loss(params, NULL, batch, KEY, 0))
    (total, scalars), [(arguments, logits)] = loss(BATCH)
    hidden = arguments[0] == CODES
    assert not hidden[1::2, :FRAME].any() and hidden.any()  # the first frame is given in prediction
    np.testing.assert_array_equal(arguments[0][~hidden], TOKENS[~hidden])
    rows = [[(b, n) for n in range(2 * FRAME) if hidden[b, n]] for b in range(6)]
    means = [
        np.mean([cross_entropy(logits[b][n], TOKENS[b][n]) for each in rows[turn::2] for b, n in each])
        for turn in (0, 1)
    ]
    np.testing.assert_allclose([scalars["text_to_video"], scalars["prediction"]], means, rtol=1e-4)
    np.testing.assert_allclose(total, sum(means), rtol=1e-4)


def test_evaluation_scores_the_clip_from_its_text_and_later_frames_from_the_first(probed):
    task, params, _ = probed
    evaluate = recorded(
        task.network, lambda batch: task.evaluate(params, NULL, batch, jax.random.split(KEY, 6))
    )
    scores, [(from_text, text_logits), (from_frame, frame_logits)] = evaluate(BATCH)
    np.testing.assert_array_equal(from_text[1], STATES)
    np.testing.assert_array_equal(from_frame[1], np.repeat(NULL["null_text"], 6, axis=0))
    for name, logits, first in (
        ("cross_entropy", text_logits, 0),
        ("prediction_cross_entropy", frame_logits, FRAME),
    ):
        places = range(first, 2 * FRAME)
        expected = [sum(cross_entropy(logits[b][n], TOKENS[b][n]) for n in places) for b in range(6)]
        np.testing.assert_allclose(scores[name][0], expected, rtol=1e-4)
        np.testing.assert_array_equal(scores[name][1], [len(places)] * 6)


def test_beginnings_of_clips_are_predicted_as_in_whole_clips(probed, tokenizer):
    """With a grid of one frame more than the data, whose positions are not read."""
    task, params, _ = probed
    longer = make(tokenizer, {"grid": (3, 2, 2), "condition_depth": 1})
    weights = random_params(longer.init)
    shapes = jax.tree.map(jnp.shape, longer.passes(NULL, BATCH, KEY))
    assert shapes == jax.tree.map(jnp.shape, task.passes(NULL, BATCH, KEY))
    clips = RNG.integers(0, CODES, (2, 3 * FRAME))
    text = STATES[:2].astype(np.float32), MASK[:2]
    whole = longer.losses(weights, clips, None, text)
    beginning = longer.losses(weights, clips[:, : 2 * FRAME], None, text)
    np.testing.assert_allclose(beginning, whole[:, : 2 * FRAME], rtol=1e-4)


def test_prediction_draws_the_frames_after_the_given_ones(tokenizer):
    task = make(tokenizer)
    frozen = {**NULL, "tokenizers": task.frozen_tokenizers()}
    params, decoded = nn.unbox(random_params(task.init)), task.decode(frozen, TOKENS)
    for given in (1, 2):
        clips = jax.jit(task.predict, static_argnums=4)(params, frozen, BATCH, KEY, given)
        np.testing.assert_array_equal(clips[:, :given], decoded[:, :given])
        assert (clips[:, given:] != decoded[:, given:]).any() == (given < 2)


@pytest.mark.parametrize("frames", [1, 2])
def test_samples_are_the_candidates_that_the_ranker_chooses(tokenizer, tmp_path, frames):
    ranked = default_config("nuwa", "video_ranker")
    ranked.model = {"widths": (8,), "depth": 1, "text_dim": 384, "embed_dim": 8}
    ranked.data.update(image_size=16, frames=2, source="folder:none")
    save_untrained(ranked, tmp_path / "ranker")
    config = make_config(tokenizer)
    config.data.frames = frames
    plain = make_task(validate_config(config))
    config.ranker, config.sampling.num_candidates = str(tmp_path / "ranker"), 3
    task = make_task(validate_config(config))
    frozen = {**NULL, "tokenizers": task.frozen_tokenizers(), "ranker": task.ranker.params}
    params = nn.unbox(random_params(task.init))
    batch = {"text_states": STATES, "text_mask": MASK}
    best = jax.jit(task.sample)(params, frozen, batch, KEY)
    thrice = {name: np.repeat(value, 3, axis=0) for name, value in batch.items()}
    candidates = np.asarray(jax.jit(plain.sample)(params, frozen, thrice, KEY))
    clips = candidates.reshape(18, frames, 16, 16, 3)
    choose = jax.jit(lambda *inputs: best_clips(task.ranker.module, frozen["ranker"], *inputs))
    np.testing.assert_array_equal(best, np.reshape(choose(clips, (STATES, MASK)), best.shape))
    assert best.shape == (6, *candidates.shape[1:]) and (best != candidates[::3]).any()


def test_candidates_without_a_ranker_are_refused(tokenizer):
    config = make_config(tokenizer)
    config.sampling.num_candidates = 2
    with pytest.raises(ValueError, match="num_candidates is 2, but this checkpoint has no ranker"):
        make_task(validate_config(config))


@pytest.fixture(scope="module")
def on_images(tokenizer):
    """The task on images, of a network for clips of two frames, and weights."""
    config = make_config(tokenizer, {"condition_depth": 1}, text_dropout=0.0)
    config.data.frames = 1
    task = make_task(validate_config(config))
    return task, random_params(task.init)


def test_images_train_text_to_image_alone(on_images):
    task, params = on_images
    batch = {"tokens": TOKENS[:, :FRAME], "text_states": STATES, "text_mask": MASK}
    loss = recorded(task.network, lambda batch: task.loss(params, NULL, batch, KEY, 0))
    (total, scalars), [(arguments, logits)] = loss(batch)
    np.testing.assert_array_equal(arguments[0], TOKENS[:, :FRAME])
    np.testing.assert_array_equal(arguments[1], STATES)
    expected = [cross_entropy(logits[b][n], TOKENS[b][n]) for b in range(6) for n in range(FRAME)]
    assert list(scalars) == ["text_to_image"]
    np.testing.assert_allclose(total, np.mean(expected), rtol=1e-4)
    scores = jax.jit(task.evaluate)(params, NULL, batch, jax.random.split(KEY, 6))
    assert list(scores) == ["cross_entropy"]
    np.testing.assert_allclose(np.sum(scores["cross_entropy"][0]), np.sum(expected), rtol=1e-4)


def test_images_are_encoded_as_the_frames_of_videos_are(on_images, tokenizer):
    task, _ = on_images
    frozen = {"tokenizers": task.frozen_tokenizers()}
    images = RNG.integers(0, 256, (2, 16, 16, 3), np.uint8)
    assert task.fields == ("image",)
    assert {name: shape.shape for name, shape in task.media_shapes().items()} == {"image": (6, 16, 16, 3)}
    [video] = make(tokenizer).features(frozen, images[None]).values()
    tokens = task.features(frozen, images)["tokens"]
    np.testing.assert_array_equal(tokens.reshape(video.shape), video)
    [frames] = make(tokenizer).decode(frozen, video)
    np.testing.assert_array_equal(task.decode(frozen, tokens), frames)


@pytest.mark.slow
def test_images_are_previewed_as_images(on_images):
    task, params = on_images
    frozen = {**NULL, "tokenizers": task.frozen_tokenizers()}
    batch = {"tokens": TOKENS[:4, :FRAME], "text_states": STATES[:4], "text_mask": MASK[:4]}
    samples = jax.jit(task.preview)(nn.unbox(params), frozen, batch, KEY)["samples"]
    assert samples.pixels.shape == (8, 16, 16, 3)
    np.testing.assert_array_equal(samples.pixels[:4], task.decode(frozen, batch["tokens"]))


def test_sketches_are_encoded_in_the_step_as_stored_tokens_are(tokenizer):
    task = make(tokenizer, {"condition_depth": 1}, text_dropout=0.0)
    frozen = {**NULL, "tokenizers": task.frozen_tokenizers()}
    video, sketch = RNG.integers(0, 256, (2, 6, 2, 16, 16, 3), np.uint8)
    text = {"text_states": STATES, "text_mask": MASK}
    stored = {**text, **task.features(frozen, video, sketch)}
    first = task.passes(frozen, {**text, "video": video, "sketch": sketch}, KEY)
    for mine, other in zip(
        jax.tree.leaves(first), jax.tree.leaves(task.passes(frozen, stored, KEY)), strict=True
    ):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.slow
def test_a_short_run_learns_clips_by_heart(tokenizer):
    """Random tokens, so that only the caption, or the first frame, can tell them."""
    task = make(tokenizer, text_dropout=0.0)
    batch = {name: value for name, value in BATCH.items() if name != "sketch_tokens"}
    scalars = train_on(task, NULL, batch, steps=500)
    assert scalars["loss"][:5].mean() > 6  # 3 log(16) = 8.3
    assert scalars["loss"][-50:].mean() < 0.5  # a caption leaves open which frame is the image


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of eight clips of two frames."""
    folder = tmp_path_factory.mktemp("videos")
    lines = []
    for i in range(8):
        frames = [Image.fromarray(RNG.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(2)]
        frames[0].save(folder / f"{i}.gif", save_all=True, append_images=frames[1:], duration=100)
        lines.append(f'{{"file": "{i}.gif", "caption": "clip {i}"}}\n')
    (folder / "captions.jsonl").write_text("".join(lines))
    return folder


@pytest.mark.slow
def test_videos_are_read_and_previewed(tokenizer, videos):
    config = make_config(tokenizer)
    config.data.update(source=f"folder:{videos}", batch_size=4, workers=0, fps=10.0)
    task = make_task(validate_config(config))
    batch = next(task.make_loader("train", 0))
    assert batch["video"].shape == (4, 2, 16, 16, 3)
    params, frozen = nn.unbox(task.init(jax.random.key(0))), task.frozen()
    stored = task.features(frozen, batch["video"])
    tokenizer_params = frozen["tokenizers"]["tokenizer"]
    frames = [task.tokenizer.encode(tokenizer_params, batch["video"][:, s] / 127.5 - 1) for s in (0, 1)]
    np.testing.assert_array_equal(stored["tokens"].reshape(4, 2, 2, 2), np.stack(frames, axis=1))
    samples = jax.jit(task.preview)(params, frozen, batch, KEY)["samples"]
    assert samples.frames.shape == (8, 2, 16, 16, 3) and samples.frames.dtype == jnp.uint8


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"grid": (1, 2, 2)},
            "grid are 16 and .1, 2, 2., but the tokenizer .* on .2, 2, 2. for 2 frames",
        ),
        ({"text_dim": 8}, "text_dim is 8, but the text encoder's states are 384 wide"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(tokenizer, change, message):
    with pytest.raises(ValueError, match=message):
        make(tokenizer, change)


@pytest.mark.parametrize(
    "loss, batch_size, message",
    [
        ({}, 5, "batch_size is 5, but 2 objectives share the clips"),
        ({"text_to_image": 0.0, "text_to_video": 0.0, "prediction": 0.0}, 6, "no objective on 2 frames"),
    ],
)
def test_objectives_that_do_not_share_a_batch_are_refused(tokenizer, loss, batch_size, message):
    config = make_config(tokenizer, **loss)
    config.data.batch_size = batch_size
    with pytest.raises(ValueError, match=message):
        make_task(validate_config(config))
