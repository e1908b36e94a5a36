import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.system import make_task
from muse_jax.systems.muse.tasks import masked_cross_entropy
from muse_jax.training import validate_config
from tests.systems.conftest import tiny_config
from tests.systems.probing import random_params
from tests.text import t5_files

SIZES = {"width": 16, "heads": 2, "mlp_dim": 32, "text_dim": 384}
BASE = {**SIZES, "vocab_size": 16, "grid": (4, 4), "depth": 1}
SUPERRES = {
    **SIZES,
    "vocab_size": 16,
    "low_vocab_size": 16,
    "grid": (4, 4),
    "low_grid": (2, 2),
    "depth": 2,
    "low_depth": 1,
    "block": 2,
}


def base_config(image_folder, tokenizer):
    config = tiny_config("base", image_folder)
    config.model = BASE
    config.tokenizer = tokenizer
    return config


def superres_config(image_folder, tokenizer):
    config = tiny_config("superres", image_folder)
    config.model = SUPERRES
    config.tokenizer = config.superres_tokenizer = tokenizer
    return config


@pytest.fixture(scope="module")
def base(image_folder, tokenizer):
    task = make_task(validate_config(base_config(image_folder, tokenizer)))
    return task, random_params(task.init), task.frozen(), next(task.make_loader("train", 0))


def test_the_loss_is_the_mean_cross_entropy_of_masked_tokens_by_a_loop():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 5)).astype(np.float32)
    targets, masked = rng.integers(0, 5, (2, 3)), np.array([[1, 0, 1], [0, 0, 1]], bool)
    for smoothing in (0.0, 0.1):
        terms = []
        for b, n in zip(*np.nonzero(masked), strict=True):
            log_probs = logits[b, n] - np.log(np.exp(logits[b, n]).sum())
            goal = np.full(5, smoothing / 5)
            goal[targets[b, n]] += 1 - smoothing
            terms.append(-(goal * log_probs).sum())
        loss = masked_cross_entropy(jnp.asarray(logits), targets, masked, smoothing)
        np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-5)
        masked_cases = [(np.zeros((2, 3), bool), 0), (np.arange(6).reshape(2, 3) == 0, terms[0])]
        for few, expected in masked_cases:  # nothing masked, or a single token
            loss = masked_cross_entropy(jnp.asarray(logits), targets, few, smoothing)
            np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_stored_features_give_the_same_loss_as_images_and_captions(base):
    task, params, frozen, batch = base
    states = task.text_encoder.apply(frozen["text"], batch["caption_ids"], batch["caption_mask"])
    stored = {
        **task.features(frozen, batch["image"]),
        "text_states": np.asarray(states, np.float16),
        "text_mask": batch["caption_mask"],
    }
    loss = jax.jit(task.loss)
    expected = loss(params, frozen, batch, jax.random.key(1), 0)[0]
    np.testing.assert_allclose(loss(params, frozen, stored, jax.random.key(1), 0)[0], expected, rtol=1e-3)
    keys = jax.random.split(jax.random.key(1), 4)
    scores = [jax.eval_shape(task.evaluate, params, frozen, given, keys) for given in (batch, stored)]
    assert scores[0] == scores[1]


IMAGES = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)


def codes_of(task, params, images):
    """Flat codes of images from -1 to 1 by the tokenizer's own encoder."""
    return np.asarray(task.tokenizer.encode(params, jnp.asarray(images, jnp.float32))).reshape(
        len(images), -1
    )


def test_features_are_the_codes_of_the_image(base):
    task, _, frozen, _ = base
    features = task.features(frozen, IMAGES)
    assert set(features) == {"tokens"}
    expected = codes_of(task, frozen["tokenizers"]["tokenizer"], IMAGES / 127.5 - 1)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(features["tokens"], expected)


def test_all_text_dropped_makes_the_caption_irrelevant(image_folder, tokenizer, base):
    config = base_config(image_folder, tokenizer)
    config.loss = {"text_dropout": 1.0}
    task = make_task(validate_config(config))
    _, params, frozen, batch = base
    loss = jax.jit(task.loss)
    other = {**batch, "caption_ids": batch["caption_ids"][::-1], "caption_mask": batch["caption_mask"][::-1]}
    first = loss(params, frozen, batch, jax.random.key(1), 0)[0]
    assert first == loss(params, frozen, other, jax.random.key(1), 0)[0]


def test_the_superres_task_reads_both_sizes_of_the_same_image(image_folder, tokenizer):
    task = make_task(validate_config(superres_config(image_folder, tokenizer)))
    params, frozen = random_params(task.init), task.frozen()
    batch = next(task.make_loader("train", 0))
    features, params_of = task.features(frozen, IMAGES), frozen["tokenizers"]
    high = IMAGES / 127.5 - 1
    low = high.reshape(4, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    np.testing.assert_array_equal(features["tokens"], codes_of(task, params_of["tokenizer"], low))
    fine = codes_of(task, params_of["superres_tokenizer"], high)
    np.testing.assert_array_equal(features["superres_tokens"], fine)
    assert features["tokens"].shape == (4, 4) and fine.shape == (4, 16)
    images = jax.jit(task.preview)(params, frozen, batch, jax.random.key(1))["samples"]
    assert images.shape == (8, 32, 32, 3) and images.dtype == jnp.uint8


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vocab_size": 8}, "vocab_size, grid and groups are 8, .4, 4. and 1, but the tokenizer"),
        ({"grid": (2, 8)}, "set them to that"),
        ({"text_dim": 64}, "text_dim is 64, but the text encoder's states are 384 wide"),
        ({"widht": 16}, "did you mean model.width"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_in_one_sentence(image_folder, tokenizer, change, message):
    config = base_config(image_folder, tokenizer)
    config.model = {**BASE, **change}
    with pytest.raises(ValueError, match=message):
        make_task(validate_config(config))


def test_a_missing_tokenizer_is_named_with_the_flag_that_mends_it(image_folder):
    config = base_config(image_folder, "runs/nowhere")
    with pytest.raises(
        ValueError, match="config.tokenizer is 'runs/nowhere', which is not a run or a checkpoint"
    ):
        make_task(validate_config(config))


ON_MESHES = """
import json, sys
import jax
import numpy as np
from muse_jax.text import TextEncoder
from muse_jax.training import validate_config
from muse_jax.training.evaluate import put_frozen
from muse_jax.sharding.partitioning import make_mesh, on_mesh
from muse_jax.system import make_task

compiled, apply = [], TextEncoder.apply

def watched(self, params, ids, mask):
    compiled.append(all(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params)))
    return apply(self, params, ids, mask)

TextEncoder.apply = watched
task = make_task(validate_config(json.loads(sys.argv[1])))
for axis in ("data", "fsdp", "tensor"):
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1, axis: 2})
    with on_mesh(mesh):
        frozen = put_frozen(task, mesh)
    kernel = frozen["text"]["layers"]["mlp"]["wi_0"]["kernel"]
    shard, null_text = kernel.addressable_shards[0].data.shape, np.asarray(frozen["null_text"])
    print(json.dumps([all(compiled), shard, null_text.tolist()]))
"""


def test_the_null_text_of_t5_is_encoded_in_shards_on_every_axis_of_a_mesh(image_folder, tokenizer, tmp_path):
    t5_files.write_safetensors(tmp_path, t5_files.random_weights())
    t5_files.write_sentencepiece(tmp_path)
    config = base_config(image_folder, tokenizer)
    config.model = {**BASE, "text_dim": t5_files.WIDTH}
    config.data.text_encoder = f"t5:{tmp_path}"
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    command = [sys.executable, "-c", ON_MESHES, json.dumps(config.to_dict())]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert [compiled for compiled, _, _ in printed] == [True] * 3
    depth, width, mlp = t5_files.DEPTH, t5_files.WIDTH, t5_files.MLP
    shards = [[depth, width, mlp], [depth, width // 2, mlp], [depth, width, mlp // 2]]
    assert [shard for _, shard, _ in printed] == shards
    encoder = make_task(validate_config(config)).text_encoder
    ids, mask = encoder.tokenize([""])
    expected = np.asarray(jax.jit(encoder.apply)(encoder.params, ids, mask))[mask]
    for _, _, null_text in printed:
        np.testing.assert_allclose(np.array(null_text)[mask], expected, atol=1e-5)


def test_a_share_of_the_low_tokens_is_wrong_in_training(image_folder, tokenizer):
    config = superres_config(image_folder, tokenizer)
    config.loss = {"low_noise": 0.5}
    task = make_task(validate_config(config))
    low = jnp.full((400, 4), 3)
    (noisy,) = task.corrupt((low,), jax.random.key(0))
    shares = np.mean(np.asarray(noisy) != 3, axis=1)
    assert np.mean((shares > 0) & (shares < 1)) > 0.3  # each token is wrong or not by itself
    # The mean share is 0.5 / 2, less the sixteenth of codes that are right by chance.
    np.testing.assert_allclose(shares.mean(), 0.25 * 15 / 16, atol=0.03)
    assert set(np.unique(noisy)) == set(range(16))
    config.loss = {}
    (clean,) = make_task(validate_config(config)).corrupt((low,), jax.random.key(0))
    np.testing.assert_array_equal(clean, low)
