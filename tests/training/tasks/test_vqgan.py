import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from muse_jax.images import to_unit_range
from muse_jax.tokenizers.quantizer import code_histogram, squared_distances
from muse_jax.training import validate_config
from muse_jax.training.partitioning import one_device_mesh
from muse_jax.training.state import create_state
from muse_jax.training.tasks import make_task
from muse_jax.training.tasks.task import Task
from muse_jax.training.tasks.vqgan import psnr
from tests.training.tasks.conftest import MODEL, tiny_config


def batch():
    return {"image": jax.random.randint(jax.random.key(0), (4, 32, 32, 3), 0, 256, jnp.uint8)}


@pytest.fixture(scope="module")
def adversarial(pictures):
    """The task with a discriminator, its parameters and the gradient function of its loss."""
    config = tiny_config("vqgan", pictures)
    config.model = MODEL
    config.discriminator = {"filters": (4, 8), "patch": 4}
    config.loss = {"adversarial": 0.1, "adversarial_start": 5}
    task = make_task(validate_config(config))
    params, frozen = nn.unbox(task.init(jax.random.key(0))), task.frozen()
    gradient = jax.jit(
        lambda params, step: jax.grad(task.loss, has_aux=True)(
            params, frozen, batch(), jax.random.key(1), step
        )
    )
    return params, gradient


def norm(tree):
    return float(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)) ** 0.5)


def test_the_discriminator_learns_from_its_start_step_on(adversarial):
    params, gradient = adversarial
    before, metrics_before = gradient(params, jnp.int32(4))
    after, metrics_after = gradient(params, jnp.int32(5))
    assert norm(before["discriminator"]) == 0 and metrics_before["discriminator"] == 0
    assert norm(after["discriminator"]) > 0 and metrics_after["discriminator"] > 0
    assert norm(jax.tree.map(jnp.subtract, after["generator"], before["generator"])) > 0


def test_r1_is_taken_every_sixteenth_step(adversarial):
    params, gradient = adversarial
    losses = [float(gradient(params, jnp.int32(step))[1]["discriminator"]) for step in (15, 16, 17)]
    assert losses[0] == losses[2] and losses[1] > losses[0]


def test_psnr_of_a_known_error():
    x = jnp.zeros((2, 4, 4, 3))
    np.testing.assert_allclose(psnr(x + 0.2, x), 10 * np.log10(4 / 0.04), rtol=1e-5)


def test_usage_is_of_the_whole_split_and_not_of_a_batch(pictures):
    config = tiny_config("vqgan", pictures)
    config.model = MODEL
    task = make_task(validate_config(config))
    one, other = code_histogram(jnp.array([0, 1]), 4), code_histogram(jnp.array([2, 2]), 4)
    scores = task.summarize({"psnr": 20.0, "histogram": (one + other) / 2})
    assert set(scores) == {"psnr", "usage", "perplexity"}
    np.testing.assert_allclose(scores["usage"], 3 / 4)
    np.testing.assert_allclose(scores["perplexity"], np.exp(0.5 * np.log(4) + 0.5 * np.log(2)), rtol=1e-5)


def test_without_a_perceptual_weight_its_network_is_not_loaded(pictures):
    config = tiny_config("vqgan", pictures)
    config.model = MODEL
    config.loss = {"perceptual": 0.0}
    task = make_task(validate_config(config))
    frozen = task.frozen()
    assert frozen["perceptual"] == {}
    assert task.perceptual(frozen, jnp.ones((1, 8, 8, 3)), jnp.zeros((1, 8, 8, 3))) == 0


def test_decoder_finetuning_trains_the_decoder_alone_and_keeps_the_codes(pictures, tokenizer):
    config = tiny_config("vqgan_decoder", pictures)
    config.model = {**MODEL, "decoder_filters": 16, "decoder_res_blocks": 2}
    config.loss = {"adversarial": 0.0}
    config.tokenizer = tokenizer
    task = make_task(validate_config(config))
    params, frozen = nn.unbox(task.init(jax.random.key(0))), task.frozen()
    assert set(params["generator"]) == {"decoder"}
    images = jax.random.uniform(jax.random.key(2), (2, 32, 32, 3), minval=-1)
    _, quantized = jax.jit(task.reconstruct)(params, frozen, images)
    small = {**frozen["generator"], "decoder": {}}
    ids = jax.jit(lambda p, x: task.vqgan.apply({"params": p}, x, method="encode"))(small, images)
    np.testing.assert_array_equal(ids, quantized.ids)


def test_decoder_finetuning_refuses_another_codebook(pictures, tokenizer):
    config = tiny_config("vqgan_decoder", pictures)
    config.model = {**MODEL, "codebook_size": 32}
    config.tokenizer = tokenizer
    with pytest.raises(ValueError, match="does not describe the encoder and codebook of"):
        make_task(validate_config(config))


@pytest.mark.parametrize(
    "section, key, near", [("model", "filter", "filters"), ("loss", "perceptua", "perceptual")]
)
def test_an_unknown_key_is_refused_and_the_nearest_named(pictures, section, key, near):
    config = tiny_config("vqgan", pictures)
    config.model = MODEL
    config[section][key] = 1
    with pytest.raises(ValueError, match=f"{section}.{key}.*did you mean {section}.{near}"):
        make_task(validate_config(config))


def test_an_image_size_that_no_token_grid_fits_is_refused(pictures):
    config = tiny_config("vqgan", pictures)
    config.model = MODEL
    config.data.image_size = 30
    with pytest.raises(ValueError, match="config.data.image_size is 30, but must be a multiple of 8"):
        make_task(validate_config(config))


def local_config(pictures):
    config = tiny_config("vqgan", pictures)
    config.model = {**MODEL, "local": True, "multipliers": (1,), "patch": 8}
    return config


def test_a_local_codebook_is_read_off_the_images_once_and_never_while_tracing(pictures, monkeypatch):
    task = make_task(validate_config(local_config(pictures)))
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


def test_the_loss_needs_nothing_but_its_arguments(pictures):
    config = tiny_config("vqgan", pictures)
    config.model = MODEL
    frozen = make_task(validate_config(config)).frozen_shapes()
    task = make_task(validate_config(config))  # one that was never asked for its frozen weights
    params = jax.eval_shape(lambda key: nn.unbox(task.init(key)), jax.random.key(0))
    loss, terms = jax.eval_shape(task.loss, params, frozen, batch(), jax.random.key(0), 0)
    assert loss.shape == () and "perceptual" in terms


def test_dead_codes_restart_every_so_many_steps(pictures):
    config = tiny_config("vqgan", pictures)
    config.model = MODEL
    config.loss = {"perceptual": 0.0, "adversarial": 0.0, "restart_every": 3}
    task = make_task(validate_config(config))
    params = nn.unbox(task.init(jax.random.key(0)))
    after = jax.jit(lambda params, step: task.after_update(params, {}, batch(), jax.random.key(1), step))
    _, quantized = task.reconstruct(params, {"generator": {}}, to_unit_range(batch()["image"]))
    used = np.unique(quantized.ids)
    before = np.asarray(params["generator"]["quantizer"]["codebook"])
    for step in (0, 1, 3):
        np.testing.assert_array_equal(after(params, step)["generator"]["quantizer"]["codebook"], before)
    restarted = np.asarray(after(params, 2)["generator"]["quantizer"]["codebook"])
    changed = np.flatnonzero((restarted != before).any(1))
    assert 0 < len(used) < 16 and set(changed) == set(range(16)) - set(used.tolist())


def test_a_quantizer_without_a_table_has_no_codes_to_restart(pictures):
    config = tiny_config("vqgan", pictures)
    config.model = {**MODEL, "quantizer_kind": "lfq"}
    config.loss = {"restart_every": 3}
    with pytest.raises(ValueError, match="lfq has no codes to restart"):
        make_task(validate_config(config))
