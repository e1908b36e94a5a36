"""Training of the video tokenizer: its loss by hand, restarts of codes, a short run."""

import jax
import numpy as np
import pytest

from muse_jax.system import make_task
from muse_jax.training import default_config, validate_config
from tests.systems.probing import random_params, train_on

CLIPS = np.random.default_rng(0).integers(0, 256, (4, 2, 2, 2, 3)).astype(np.uint8).repeat(4, 2).repeat(4, 3)
BATCH = {"video": CLIPS}
MODEL = {"downsample": (2, 4, 4), "width": 8, "num_res_blocks": 1, "codebook_size": 16, "embed_dim": 4}
KEY = jax.random.key(0)


def make(**changes):
    config = default_config("nuwa", "video_vqvae")
    config.model = {**MODEL}
    data = {"batch_size": 4, "image_size": 8, "frames": 2, "source": "folder:none"}
    config.data.update({**data, **changes})
    return make_task(validate_config(config))


def test_the_loss_is_that_of_the_reconstruction_and_the_codebook():
    task = make()
    params = random_params(task.init)
    loss, terms = jax.jit(lambda params: task.loss(params, {}, BATCH, KEY, 0))(params)
    clips = CLIPS / 127.5 - 1
    reconstruction, quantized = jax.jit(task.network.apply)({"params": params}, clips)
    error = np.mean((np.asarray(reconstruction) - clips) ** 2) / 4
    np.testing.assert_allclose(terms["reconstruction"], error, rtol=1e-4)
    expected = error / 0.06 + quantized.codebook_loss + 0.25 * quantized.commitment_loss
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_codes_that_a_batch_does_not_use_are_restarted_at_its_vectors():
    task = make()
    params = random_params(task.init)
    vectors, ids = (
        jax.jit(lambda p, m=method: task.network.apply({"params": p}, CLIPS / 127.5 - 1, method=m))(params)
        for method in ("encode_vectors", "encode_ids")
    )
    after = jax.jit(lambda params: task.after_update(params, {}, BATCH, KEY, 0))(params)
    codebook, vectors = after["quantizer"]["codebook"], np.asarray(vectors).reshape(-1, 4)
    used = set(np.asarray(ids).ravel().tolist())
    assert 0 < len(used) < 16
    for code in range(16):
        if code in used:
            np.testing.assert_array_equal(codebook[code], params["quantizer"]["codebook"][code])
        else:
            assert np.abs(vectors - codebook[code]).max(axis=1).min() < 1e-4


@pytest.mark.slow
def test_a_short_run_learns_the_clips():
    clips = {"video": CLIPS.repeat(2, axis=1)}  # several codes along each axis, so that attention matters
    scalars = train_on(make(frames=4), {}, clips, steps=300)
    assert scalars["reconstruction"][-20:].mean() < 0.3 * scalars["reconstruction"][:20].mean()


def test_clips_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="clip of 3x8x8 frames"):
        make(frames=3)
