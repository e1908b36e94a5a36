import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy.special import softmax
from scipy.stats import entropy

from muse_jax.media.image import to_unit_range
from muse_jax.sharding.partitioning import on_mesh, one_device_mesh
from muse_jax.system import make_task
from muse_jax.systems.vqgan import tasks as vqgan
from muse_jax.systems.vqgan.tasks import psnr_of
from muse_jax.tokenizers.quantizer import code_histogram, squared_distances
from muse_jax.training import validate_config
from muse_jax.training.state import create_state
from muse_jax.training.task import Task
from tests.systems.conftest import MODEL as TINY
from tests.systems.conftest import tiny_config
from tests.systems.probing import norm, random_params, train_on

MODEL = {**TINY, "entropy_temperature": 0.5}
# No two alike, so that no term can pass for another.
WEIGHTS = {
    "reconstruction": 0.9,
    "perceptual": 0.2,
    "codebook": 0.8,
    "commitment": 0.3,
    "entropy": 0.4,
    "l1": 0.6,
    "edge": 0.5,
    "lpips": 0.15,
    "adversarial": 0.7,
}


def batch():
    return {"image": jax.random.randint(jax.random.key(0), (4, 32, 32, 3), 0, 256, jnp.uint8)}


def stand_in_distance(params, images, targets, dtype=None):
    """A perceptual distance that compiles at once and tells its arguments apart."""
    return jnp.mean((images - params["share"] * targets) ** 2)


# The parameters that a term may move. Straight-through, a pixel's error passes the codebook by.
MOVES = {
    "reconstruction": {"encoder", "decoder"},
    "perceptual": {"encoder", "decoder"},
    "l1": {"encoder", "decoder"},
    "edge": {"encoder", "decoder"},
    "lpips": {"encoder", "decoder"},
    "codebook": {"quantizer"},
    "commitment": {"encoder"},
    "entropy": {"encoder", "quantizer"},
    "adversarial": {"encoder", "decoder"},
    "discriminator": {"discriminator"},
}


@pytest.fixture(scope="module")
def probed(image_folder):
    """The task with all terms, its parameters, and at a step the scalars, and gradients of loss and terms."""
    config = tiny_config("vqgan", image_folder)
    config.model = MODEL
    config.discriminator = {"filters": (4, 8), "patch": 4}
    config.loss = {**WEIGHTS, "adversarial_start": 5}
    task = make_task(validate_config(config))
    params, names = random_params(task.init), ("loss", *MOVES)
    frozen = {"perceptual": {"share": 0.8}, "lpips": {"share": 0.6}, "generator": {}}

    @jax.jit
    def differentiate(step):
        def terms(params):
            loss, scalars = task.loss(params, frozen, batch(), jax.random.key(1), step)
            values = {**scalars, "loss": loss}
            return jnp.stack([values[name] for name in names]), values

        _, gradient, values = jax.vjp(terms, params, has_aux=True)
        return values, jax.lax.map(lambda row: gradient(row)[0], jnp.eye(len(names)))

    def at(step):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vqgan, "perceptual_loss", stand_in_distance)
            patch.setattr(vqgan, "lpips", stand_in_distance)
            values, gradients = jax.device_get(differentiate(jnp.int32(step)))
        rows = [jax.tree.map(operator.itemgetter(i), gradients) for i in range(len(names))]
        return values, dict(zip(names, rows, strict=True))

    return task, params, at


@pytest.fixture(scope="module")
def outputs(probed):
    """Images, their reconstructions, and the encoder's vectors `(n, dim)`."""
    task, params, _ = probed
    images = np.asarray(batch()["image"], np.float32) / 127.5 - 1

    @jax.jit
    def run(variables):
        vectors = task.vqgan.apply(variables, images, method="encode_vectors")
        return task.vqgan.apply(variables, images)[0], vectors.reshape(-1, MODEL["embed_dim"])

    return images, *jax.device_get(run({"params": params["generator"]}))


def test_a_term_moves_its_own_parameters_and_no_others(probed):
    _, _, at = probed
    _, gradients = at(16)
    for name, moved in MOVES.items():
        parts = {**gradients[name]["generator"], "discriminator": gradients[name]["discriminator"]}
        assert {part for part, tree in parts.items() if norm(tree) > 0} == moved, name


def test_the_loss_is_the_weighted_sum_of_its_terms_and_so_is_its_gradient(probed):
    _, _, at = probed
    terms, gradients = at(16)
    weights = {**WEIGHTS, "discriminator": 1.0}
    expected = sum(weights[name] * terms[name] for name in MOVES)
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-5)
    moved = jax.tree.map(
        lambda *leaves: sum(weight * leaf for weight, leaf in zip(weights.values(), leaves, strict=True)),
        *[gradients[name] for name in weights],
    )
    rest = jax.tree.map(np.subtract, gradients["loss"], moved)
    assert norm(rest) < 1e-4 * norm(moved)


def test_terms_of_the_autoencoder_are_their_formulas(probed, outputs):
    _, params, at = probed
    terms, _ = at(16)
    images, reconstruction, vectors = outputs
    rows = params["generator"]["quantizer"]["codebook"]
    distances = ((vectors[:, None] - rows) ** 2).sum(-1)
    nearest = rows[nearest_codes(params, vectors)]
    soft = softmax(-distances / MODEL["entropy_temperature"], axis=1)
    expected = {
        "reconstruction": np.mean((reconstruction / 2 - images / 2) ** 2),
        "perceptual": np.mean((reconstruction - 0.8 * images) ** 2),
        "lpips": np.mean((reconstruction - 0.6 * images) ** 2),
        "l1": np.mean(abs(reconstruction - images)) / 2,
        "edge": sum(np.mean(abs(np.diff(reconstruction - images, axis=axis))) for axis in (1, 2)) / 2,
        "codebook": np.mean((nearest - vectors) ** 2),
        "commitment": np.mean((nearest - vectors) ** 2),
        "entropy": entropy(soft, axis=1).mean() - entropy(soft.mean(0)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-3, err_msg=name)


def psnr_by_hand(images, reconstruction):
    """PSNR of each image in dB, between values from -1 to 1."""
    errors = (np.clip(reconstruction, -1, 1) - images) ** 2
    return 10 * np.log10(4 / errors.mean(axis=(1, 2, 3)))


def nearest_codes(params, vectors):
    rows = params["generator"]["quantizer"]["codebook"]
    return ((vectors[:, None] - rows) ** 2).sum(-1).argmin(1)


def test_scalars_of_a_step_are_those_of_the_batch_s_reconstructions_and_codes(probed, outputs):
    _, params, at = probed
    scalars, _ = at(16)
    images, reconstruction, vectors = outputs
    shares = np.bincount(nearest_codes(params, vectors), minlength=16) / len(vectors)
    assert 0 < np.count_nonzero(shares) < 16
    expected = {
        "psnr": psnr_by_hand(images, reconstruction).mean(),
        "usage": np.count_nonzero(shares) / 16,
        "perplexity": np.exp(entropy(shares)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(scalars[name], value, rtol=1e-4, err_msg=name)


def test_evaluation_scores_each_image_by_itself(probed, outputs, monkeypatch):
    task, params, _ = probed
    images, reconstruction, vectors = outputs
    frozen = {"perceptual": {"share": 0.8}, "lpips": {"share": 0.6}, "generator": {}}
    monkeypatch.setattr(vqgan, "perceptual_loss", stand_in_distance)
    monkeypatch.setattr(vqgan, "lpips", stand_in_distance)
    scores = jax.jit(
        lambda batch: task.evaluate(params, frozen, batch, jax.random.split(jax.random.key(1), 4))
    )(batch())
    codes = nearest_codes(params, vectors).reshape(4, -1)
    expected = {
        "psnr": psnr_by_hand(images, reconstruction),
        "perceptual": np.mean((reconstruction - 0.8 * images) ** 2, axis=(1, 2, 3)),
        "lpips": np.mean((reconstruction - 0.6 * images) ** 2, axis=(1, 2, 3)),
        "histogram": [np.bincount(row, minlength=16) / row.size for row in codes],
    }
    assert set(scores) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name][0], value, rtol=1e-3, err_msg=name)
        np.testing.assert_array_equal(scores[name][1], np.ones(4))


def test_evaluation_counts_the_codes_of_each_group(image_folder):
    config = tiny_config("vqgan", image_folder)
    config.model = {**MODEL, "quantizer_kind": "lfq", "codebook_size": 4, "groups": 2}
    config.loss = {"perceptual": 0.0, "adversarial": 0.0}
    task = make_task(validate_config(config))
    params = jax.eval_shape(lambda key: nn.unbox(task.init(key)), jax.random.key(0))
    scores = jax.eval_shape(task.evaluate, params, {"generator": {}}, batch(), None)
    assert scores["histogram"][0].shape == (4, 2, 4)


def test_lpips_runs_in_the_tokenizer_s_dtype(image_folder, monkeypatch):
    config, dtypes = tiny_config("vqgan", image_folder), []
    config.model, config.loss = {**MODEL, "dtype": "bfloat16"}, {"lpips": 1.0}
    task, images = make_task(validate_config(config)), jnp.zeros((1, 8, 8, 3))
    monkeypatch.setattr(vqgan, "lpips", lambda *arguments: dtypes.append(arguments[-1]) or jnp.zeros(1))
    task.lpips({"lpips": {}}, images, images)
    assert dtypes == [jnp.bfloat16]


def test_adversarial_terms_are_their_formulas_of_images_from_0_to_1(probed, outputs):
    task, params, at = probed
    terms, _ = at(16)
    images, reconstruction, _ = outputs
    real, fake = images / 2 + 0.5, reconstruction / 2 + 0.5
    assert real.min() >= 0 and real.max() <= 1

    @jax.jit
    def discriminate(x):
        logits, gradient = jax.vjp(
            lambda x: task.discriminator.apply({"params": params["discriminator"]}, x), x
        )
        return logits, gradient(jnp.ones(len(x)))[0]

    (real_logits, gradient), (fake_logits, _) = jax.device_get([discriminate(real), discriminate(fake)])
    np.testing.assert_allclose(terms["adversarial"], np.logaddexp(0, -fake_logits).mean(), rtol=1e-4)
    plain = np.logaddexp(0, -real_logits).mean() + np.logaddexp(0, fake_logits).mean()
    r1 = 10 * 16 * np.mean([(image.astype(np.float64) ** 2).sum() for image in gradient])
    assert r1 > 0.05 * plain
    np.testing.assert_allclose(terms["discriminator"], plain + r1, rtol=1e-4)


def test_r1_is_taken_every_sixteenth_step(probed):
    _, _, at = probed
    losses = [at(step)[0]["discriminator"] for step in (15, 16, 17)]
    assert losses[0] == losses[2] and losses[1] > losses[0]


def test_the_discriminator_learns_from_its_start_step_on(probed):
    _, _, at = probed
    (before, still), (after, moved) = at(4), at(5)
    assert before["adversarial"] == before["discriminator"] == 0
    assert norm(still["adversarial"]) == norm(still["discriminator"]) == 0
    assert after["adversarial"] > 0 and after["discriminator"] > 0
    assert norm(moved["loss"]["discriminator"]) > 0


def test_without_a_start_step_the_discriminator_learns_from_the_first_on(image_folder):
    config = tiny_config("vqgan", image_folder)
    config.model, config.discriminator = MODEL, {"filters": (4, 8), "patch": 4}
    config.loss = {"adversarial": 1.0, "perceptual": 0.0}
    task = make_task(validate_config(config))
    params = jax.eval_shape(lambda key: nn.unbox(task.init(key)), jax.random.key(0))
    _, terms = jax.eval_shape(task.loss, params, {"generator": {}}, batch(), jax.random.key(1), 0)
    assert {"adversarial", "discriminator"} <= set(terms)


def test_psnr_of_a_known_error():
    x = jnp.zeros((2, 4, 4, 3))
    np.testing.assert_allclose(psnr_of(x + 0.2, x), 10 * np.log10(4 / 0.04), rtol=1e-5)
    for outside, error in ((-3.0, 1.5), (3.0, 0.5)):  # as if it were -1 or 1
        np.testing.assert_allclose(psnr_of(x + outside, x + 0.5), 10 * np.log10(4 / error**2), rtol=1e-5)


def test_usage_is_of_the_whole_split_and_not_of_a_batch(image_folder):
    config = tiny_config("vqgan", image_folder)
    config.model = MODEL
    task = make_task(validate_config(config))
    one, other = code_histogram(jnp.array([0, 1]), 4), code_histogram(jnp.array([2, 2]), 4)
    scores = task.summarize({"psnr": 20.0, "histogram": (one + other) / 2})
    assert set(scores) == {"psnr", "usage", "perplexity"}
    np.testing.assert_allclose(scores["usage"], 3 / 4)
    np.testing.assert_allclose(scores["perplexity"], np.exp(0.5 * np.log(4) + 0.5 * np.log(2)), rtol=1e-5)


def test_without_a_perceptual_weight_its_network_is_not_loaded(image_folder):
    config = tiny_config("vqgan", image_folder)
    config.model = MODEL
    config.loss = {"perceptual": 0.0}
    task = make_task(validate_config(config))
    frozen = task.frozen()
    assert frozen["perceptual"] == {}
    assert task.perceptual(frozen, jnp.ones((1, 8, 8, 3)), jnp.zeros((1, 8, 8, 3))) == 0


def test_decoder_finetuning_trains_the_decoder_alone_and_keeps_the_codes(image_folder, tokenizer):
    config = tiny_config("vqgan_decoder", image_folder)
    config.model = {**TINY, "decoder_filters": 16, "decoder_res_blocks": 2}
    config.loss = {"adversarial": 0.0, "perceptual": 0.0}
    config.tokenizer = tokenizer
    task = make_task(validate_config(config))
    params, frozen = random_params(task.init), task.frozen()
    assert set(params["generator"]) == {"decoder"}
    images = jax.random.uniform(jax.random.key(2), (2, 32, 32, 3), minval=-1)
    _, quantized = jax.jit(task.reconstruct)(params, frozen, images)
    small = {**frozen["generator"], "decoder": {}}
    ids = jax.jit(lambda p, x: task.vqgan.encode(p, x))(small, images)
    np.testing.assert_array_equal(ids, quantized.ids)


def test_decoder_finetuning_refuses_another_codebook(image_folder, tokenizer):
    config = tiny_config("vqgan_decoder", image_folder)
    config.model = {**TINY, "codebook_size": 32}
    config.tokenizer = tokenizer
    with pytest.raises(ValueError, match="does not describe the encoder and codebook of"):
        make_task(validate_config(config))


@pytest.mark.parametrize(
    "section, key, near", [("model", "filter", "filters"), ("loss", "perceptua", "perceptual")]
)
def test_an_unknown_key_is_refused_and_the_nearest_named(image_folder, section, key, near):
    config = tiny_config("vqgan", image_folder)
    config.model = MODEL
    config[section][key] = 1
    with pytest.raises(ValueError, match=f"{section}.{key}.*did you mean {section}.{near}"):
        make_task(validate_config(config))


def test_an_image_size_that_no_token_grid_fits_is_refused(image_folder):
    config = tiny_config("vqgan", image_folder)
    config.model = MODEL
    config.data.image_size = 30
    with pytest.raises(ValueError, match="config.data.image_size is 30, but must be a multiple of 8"):
        make_task(validate_config(config))


def local_config(image_folder):
    config = tiny_config("vqgan", image_folder)
    config.model = {**MODEL, "local": True, "multipliers": (1,), "patch": 8}
    return config


def test_a_local_codebook_is_read_off_the_images_once_and_never_while_tracing(image_folder, monkeypatch):
    task = make_task(validate_config(local_config(image_folder)))
    reads = []
    read = lambda *arguments: reads.append(arguments) or Task.read(task, *arguments)  # noqa: E731
    monkeypatch.setattr(task, "read", read)
    fresh, shapes, _ = create_state(task, optax.sgd(0.1), 0, one_device_mesh())
    assert reads == []
    state = fresh()
    assert len(reads) == 1
    jax.tree.map(lambda leaf, shape: np.testing.assert_equal(leaf.shape, shape.shape), state, shapes)
    params = state.params["generator"]
    images = to_unit_range(next(task.make_loader("train", 0))["image"])
    vectors = task.vqgan.apply({"params": params}, images, method="encode_vectors").reshape(-1, 4)
    # The eight images have one colour each, and there are sixteen codes: every vector becomes a code.
    distances = squared_distances(vectors, params["quantizer"]["codebook"]).min(axis=1)
    np.testing.assert_allclose(distances, 0, atol=1e-5)
    np.testing.assert_array_equal(
        state.ema["generator"]["quantizer"]["codebook"], params["quantizer"]["codebook"]
    )


def test_a_local_codebook_starts_from_as_many_images_as_the_config_says(image_folder, monkeypatch):
    config = local_config(image_folder)
    config.kmeans_images = 3 * config.data.batch_size - 1
    task, counts = make_task(validate_config(config)), []

    def codebook(params, images, key):
        counts.append(len(images))
        return jnp.zeros((16, 4))

    monkeypatch.setattr(task, "codebook_of_images", codebook)
    with on_mesh(one_device_mesh()):
        task.initialize_from_data({"generator": {"quantizer": {}}}, jax.random.key(0))
    assert counts == [3 * config.data.batch_size]
    config.kmeans_images = 0
    with pytest.raises(ValueError, match="kmeans_images"):
        validate_config(config)


def test_the_loss_needs_nothing_but_its_arguments(image_folder):
    config = tiny_config("vqgan", image_folder)
    config.model = MODEL
    frozen = make_task(validate_config(config)).frozen_shapes()
    task = make_task(validate_config(config))  # one that was never asked for its frozen weights
    params = jax.eval_shape(lambda key: nn.unbox(task.init(key)), jax.random.key(0))
    loss, terms = jax.eval_shape(task.loss, params, frozen, batch(), jax.random.key(0), 0)
    assert loss.shape == () and "perceptual" in terms


def test_dead_codes_restart_every_so_many_steps(image_folder):
    config = tiny_config("vqgan", image_folder)
    config.model = {**MODEL, "embed_dim": 3}
    config.loss = {"perceptual": 0.0, "adversarial": 0.0, "restart_every": 3}
    task = make_task(validate_config(config))
    params = random_params(task.init)
    after = jax.jit(lambda params, step: task.after_update(params, {}, batch(), jax.random.key(1), step))
    _, quantized = jax.jit(task.reconstruct)(params, {"generator": {}}, to_unit_range(batch()["image"]))
    used = np.unique(quantized.ids)
    before = np.asarray(params["generator"]["quantizer"]["codebook"])
    for step in (0, 1, 3):
        np.testing.assert_array_equal(after(params, step)["generator"]["quantizer"]["codebook"], before)
    restarted = np.asarray(after(params, 2)["generator"]["quantizer"]["codebook"])
    changed = np.flatnonzero((restarted != before).any(1))
    assert 0 < len(used) < 16 and set(changed) == set(range(16)) - set(used.tolist())


def test_a_quantizer_without_a_table_has_no_codes_to_restart(image_folder):
    config = tiny_config("vqgan", image_folder)
    config.model = {**MODEL, "quantizer_kind": "lfq"}
    config.loss = {"restart_every": 3}
    with pytest.raises(ValueError, match="lfq has no codes to restart"):
        make_task(validate_config(config))


@pytest.mark.parametrize(
    "name, reached", [pytest.param("vqgan", 0.01, marks=pytest.mark.slow), ("vqgan_decoder", 0.04)]
)
def test_a_short_run_learns_eight_images_by_heart(image_folder, tokenizer, name, reached):
    colours = np.random.default_rng(3).integers(0, 256, (8, 1, 1, 3), np.uint8)
    images = {"image": np.broadcast_to(colours, (8, 32, 32, 3))}
    config = tiny_config(name, image_folder)
    config.model, config.loss = TINY, {"adversarial": 0.0, "perceptual": 0.0, "entropy": 0.0}
    config.tokenizer = tokenizer if name == "vqgan_decoder" else ""
    task = make_task(validate_config(config))
    errors = train_on(task, task.frozen(), images, steps=400)["reconstruction"]
    assert errors[0] > 0.1
    assert errors[-1] < reached
