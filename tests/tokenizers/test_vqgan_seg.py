"""VQGAN-Seg: classes of pixels by the palette, and what it reads and paints."""

import jax
import numpy as np

from muse_jax.tokenizers import Tokenizer, VQGANSeg
from tests.systems.probing import random_params

PALETTE = ("#ff0000", "#00ff00", "#0000ff", "#ffffff")
COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]])
MODULE = VQGANSeg(
    filters=8, multipliers=(1,), num_res_blocks=1, embed_dim=4, patch=4, codebook_size=16, palette=PALETTE
)
CLASSES = np.random.default_rng(0).integers(0, 4, (2, 8, 8))
IMAGES = COLORS[CLASSES] / 127.5 - 1


def test_it_is_a_tokenizer_of_images_that_paints_colors_of_the_palette():
    params = random_params(lambda key: MODULE.init(key, IMAGES[:1])["params"])
    assert isinstance(MODULE, Tokenizer) and MODULE.latent_spec((8, 8, 3)).grid == (2, 2)

    @jax.jit
    def run(images):
        ids = MODULE.encode(params, images)
        return ids, MODULE.decode(params, ids), MODULE.apply({"params": params}, images)[0]

    ids, painted, logits = jax.device_get(run(IMAGES))
    assert ids.shape == (2, 2, 2) and logits.shape == (2, 8, 8, 4)
    np.testing.assert_allclose(painted, COLORS[logits.argmax(-1)] / 127.5 - 1, atol=1e-6)
    noisy = IMAGES + np.random.default_rng(1).uniform(-0.4, 0.4, IMAGES.shape)
    np.testing.assert_array_equal(run(noisy)[0], ids)  # it sees classes only
    assert (run(-IMAGES)[0] != ids).any()


def test_the_class_of_a_pixel_is_that_of_the_nearest_color():
    images = np.random.default_rng(2).uniform(-1, 1, (1, 4, 4, 3))
    distances = ((images[..., None, :] - (COLORS / 127.5 - 1)) ** 2).sum(-1)
    np.testing.assert_array_equal(MODULE.apply({}, images, method="classes"), distances.argmin(-1))
