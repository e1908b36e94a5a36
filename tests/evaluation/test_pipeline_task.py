import jax
import numpy as np

from muse_jax.evaluation.pipeline_task import TokenizerTask
from muse_jax.tokenizers import VQGAN
from tests.systems.probing import random_params


def test_the_reconstructions_of_a_tokenizer_are_those_of_its_training():
    vqgan = VQGAN(filters=8, num_res_blocks=1, codebook_size=16, embed_dim=4, multipliers=(1,), patch=4)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)
    params = random_params(lambda key: vqgan.init(key, images))["params"]
    found, codes = jax.jit(TokenizerTask(vqgan, None).reconstruct)(params, None, images)
    expected, quantized = jax.jit(vqgan.apply)({"params": params}, images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(codes.ids, quantized.ids)
