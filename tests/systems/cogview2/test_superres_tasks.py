import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from muse_jax.system import make_task
from muse_jax.systems.cogview2.superres import direct_from_coglm, iterative_from_coglm
from muse_jax.training import default_config, restore_params, train, validate_config
from tests.systems.conftest import PIECES
from tests.systems.probing import random_params

COGLM = {
    "vocab_size": 16 + PIECES + 3,
    "grid": (4, 4),
    "text_length": 8,
    "image_position": 8,
    "width": 8,
    "depth": 1,
    "heads": 1,
    "mlp_dim": 8,
}


@pytest.fixture(scope="module")
def config(coglm_config):
    config = coglm_config.copy_and_resolve_references()
    config.model = COGLM
    return config


@pytest.fixture(scope="module")
def coglm(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("coglm")
    checked = validate_config(config)
    train(checked, make_task(checked), workdir)
    return str(workdir)


def superres_config(config, coglm, name):
    changed = config.copy_and_resolve_references()
    changed.task, changed.loss, changed.init_from = f"{name}_superres", {}, coglm
    changed.sampling = default_config("cogview2", changed.task).sampling
    changed.data.image_size, changed.data.superres_factor = 64, 2
    if name == "direct":
        changed.coglm = coglm
        changed.model = {**COGLM, "factor": 2, "window": (3, 3), "coarse_window": (3, 3)}
    else:
        changed.model = {**COGLM, "grid": (8, 8), "window": (3, 3)}
    changed.optim.lr, changed.optim.warmup_steps = 0.0, 0
    return validate_config(changed)


@pytest.mark.parametrize("name", ["direct", "iterative"])
def test_a_run_starts_with_the_coglm_s_weights(config, coglm, name, tmp_path):
    """One step with a learning rate of 0 leaves what it started with."""
    checked = superres_config(config, coglm, name)
    state = train(checked, make_task(checked), tmp_path)
    grow = direct_from_coglm if name == "direct" else iterative_from_coglm
    want = grow(restore_params(coglm), (4, 4), 2)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), jax.device_get(want))


@pytest.mark.parametrize("name", ["direct", "iterative"])
def test_batches_and_frozen_weights_are_as_described(config, coglm, name):
    task = make_task(superres_config(config, coglm, name))
    frozen = task.frozen()
    described = jax.tree.map(lambda leaf: leaf.shape, nn.unbox(task.frozen_shapes()))
    assert described == jax.tree.map(np.shape, frozen)
    batch = next(task.make_loader("train", 0))
    assert {name: value.shape for name, value in task.batch_shapes().items()} == {
        name: np.shape(value) for name, value in batch.items()
    }
    features = jax.eval_shape(task.features, frozen, batch["image"])
    assert features["tokens"].shape == (4, 16) and features["superres_tokens"].shape == (4, 64)
    params = jax.eval_shape(lambda key: nn.unbox(task.init(key)), jax.random.key(0))
    loss, _ = jax.eval_shape(task.loss, params, frozen, batch, jax.random.key(0), 0)
    scores = jax.eval_shape(task.evaluate, params, frozen, batch, None)
    assert loss.shape == () and {sums.shape for sums, _ in scores.values()} == {(4,)}


def test_features_are_the_codes_of_the_image_and_of_its_means_over_squares(config):
    task = make_task(superres_config(config, "", "iterative"))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    params = task.frozen()["tokenizers"]["tokenizer"]
    features = task.features({"tokenizers": {"tokenizer": params}}, images)
    fine = images / 127.5 - 1
    coarse = fine.reshape(2, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    for name, pixels in (("tokens", coarse), ("superres_tokens", fine)):
        codes = task.tokenizer.encode(params, jnp.asarray(pixels, jnp.float32))
        assert len(np.unique(codes)) > 1
        np.testing.assert_array_equal(features[name], codes.reshape(2, -1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["direct", "iterative"])
def test_preview_and_scores(config, coglm, name):
    checked = superres_config(config, coglm, name)
    task = make_task(checked)
    params, frozen = random_params(task.init), task.frozen()
    batch = next(task.make_loader("train", 0))
    images = jax.jit(task.preview)(params, frozen, batch, jax.random.key(0))["samples"]
    assert images.shape == (8, 64, 64, 3) and images.dtype == jnp.uint8
    keys = jax.random.split(jax.random.key(0), 4)
    for sums, weights in jax.jit(task.evaluate)(params, frozen, batch, keys).values():
        np.testing.assert_allclose(sums / weights, np.log(COGLM["vocab_size"]), rtol=0.1)


def test_a_coglm_that_does_not_fit_is_refused_in_one_sentence(config, coglm):
    changed = superres_config(config, coglm, "direct").copy_and_resolve_references().unlock()
    changed.model = {**changed.model, "mlp_dim": 16}
    with pytest.raises(ValueError, match="config.model.mlp_dim is 16, but the CogLM of config.coglm has 8"):
        make_task(changed).frozen()
    changed.coglm = ""
    with pytest.raises(ValueError, match="config.coglm is '', which is not a run or a checkpoint"):
        make_task(changed).frozen()
    changed.data.superres_factor = 4
    with pytest.raises(ValueError, match=r"config.model.grid is \(4, 4\), but the tokenizer"):
        make_task(changed)
