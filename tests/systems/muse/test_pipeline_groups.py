"""A pipeline over several tokens a position: entries under a mask, both stages, and its checkpoint."""

import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.systems.base import load_pipeline
from muse_jax.systems.muse.masked_transformer import MaskedTransformer
from muse_jax.systems.muse.pipeline import MusePipeline
from muse_jax.systems.muse.programs import _entries
from muse_jax.systems.muse.superres_transformer import SuperResTransformer
from muse_jax.tokenizers import VQGAN, flat_tokens, token_grid
from tests.systems.muse.tiny import TEXT, stage, text_encoder

FSQ = {
    "filters": 8,
    "multipliers": (1,),
    "num_res_blocks": 1,
    "patch": 4,
    "quantizer_kind": "fsq",
    "levels": 3,
}


@pytest.fixture(scope="module")
def pipe():
    base = MaskedTransformer(9, grid=(2, 2), groups=2, depth=1, **TEXT)
    superres = SuperResTransformer(
        9, 9, grid=(4, 4), low_grid=(2, 2), groups=3, low_groups=2, depth=2, low_depth=1, block=2, **TEXT
    )
    return MusePipeline(
        text_encoder(),
        stage(base, VQGAN(codebook_size=9, embed_dim=4, groups=2, **FSQ), 0, num_steps=2),
        stage(superres, VQGAN(codebook_size=9, embed_dim=6, groups=3, **FSQ), 2, num_steps=2, order="halton"),
    )


def test_flat_tokens_keep_a_positions_groups_together():
    ids = jnp.arange(24).reshape(1, 2, 4, 3)
    flat = flat_tokens(ids)
    assert flat[0, 3 * (4 * 1 + 2) + 1] == ids[0, 1, 2, 1]
    np.testing.assert_array_equal(token_grid(flat, (2, 4), 3), ids)


def test_all_tokens_of_a_position_that_a_mask_touches_are_drawn(pipe):
    mask = np.zeros((1, 16, 16), bool)
    mask[0, 5, 14] = True  # the position (1, 3) of 4x4
    entries = np.asarray(_entries(jnp.asarray(mask), pipe.superres.network))[0]
    assert np.flatnonzero(entries).tolist() == [3 * 7, 3 * 7 + 1, 3 * 7 + 2]


def test_inpainting_keeps_the_pixels_outside_and_the_tokens_outside(pipe):
    image = pipe.generate(["a red heart"], seed=1)
    mask = np.zeros((16, 16), bool)
    mask[:8, :8] = True
    drawn = pipe.inpaint(image, mask, ["a dog"], seed=2)
    np.testing.assert_array_equal(drawn[:, ~mask], image[:, ~mask])
    assert not np.array_equal(drawn, image)


def test_a_checkpoint_draws_the_same_images(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, "float32")
    again = load_pipeline(tmp_path)
    assert again.base.network.groups == 2 and again.superres.tokenizer.groups == 3
    np.testing.assert_array_equal(again.generate(["a dog"]), pipe.generate(["a dog"]))


def test_a_tokenizer_of_other_groups_is_refused(pipe):
    other = stage(pipe.base.network, VQGAN(codebook_size=9, embed_dim=2, **FSQ), 0)
    with pytest.raises(ValueError, match="generates 2 groups of 9 codes, but its tokenizer has 9 codes"):
        MusePipeline(text_encoder(), other)
