import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from muse_jax.tokenizers import VQGAN

SMALL = {"filters": 8, "num_res_blocks": 1, "codebook_size": 16, "embed_dim": 4}


def images(size, batch=2):
    return jax.random.uniform(jax.random.key(0), (batch, size, size, 3), minval=-1)


@pytest.fixture(scope="module")
def model():
    vqgan = VQGAN(**SMALL, multipliers=(1, 2), patch=4)
    return vqgan, nn.unbox(vqgan.init(jax.random.key(1), images(16)))


@pytest.mark.parametrize("multipliers, patch, factor", [((1, 1, 2, 2, 4), 1, 16), ((1, 2), 4, 8)])
def test_the_grid_is_the_image_divided_by_the_downsampling_factor(multipliers, patch, factor):
    vqgan = VQGAN(**SMALL, multipliers=multipliers, patch=patch)
    assert vqgan.downsampling == factor
    x = jax.ShapeDtypeStruct((1, 4 * factor, 2 * factor, 3), jnp.float32)
    (reconstruction, quantized), _ = jax.eval_shape(lambda x: vqgan.init_with_output(jax.random.key(0), x), x)
    assert quantized.ids.shape == (1, 4, 2)
    assert reconstruction.shape == x.shape


def test_one_set_of_weights_serves_every_resolution(model):
    vqgan, params = model
    for size in (16, 32):
        ids = vqgan.apply(params, images(size), method="encode")
        assert ids.shape == (2, size // 8, size // 8)
        assert vqgan.apply(params, ids, method="decode").shape == (2, size, size, 3)


def test_decoding_the_codes_of_an_image_is_its_reconstruction(model):
    vqgan, params = model
    reconstruction, quantized = vqgan.apply(params, images(16))
    ids = vqgan.apply(params, images(16), method="encode")
    np.testing.assert_array_equal(ids, quantized.ids)
    np.testing.assert_allclose(vqgan.apply(params, ids, method="decode"), reconstruction, atol=1e-5)


def test_the_encoder_learns_through_the_straight_through_gradient(model):
    vqgan, params = model

    def loss(params):
        reconstruction, _ = vqgan.apply(params, images(16))
        return jnp.mean((reconstruction - images(16)) ** 2)

    gradient = jax.grad(loss)(params)["params"]["encoder"]
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 0


def test_the_patch_stem_loses_no_pixel_of_its_square():
    # With an identity where the network would be, space-to-depth and its inverse must cancel.
    from einops import rearrange

    x = np.arange(2 * 8 * 8 * 3).reshape(2, 8, 8, 3)
    deep = rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=4, q=4)
    np.testing.assert_array_equal(deep[0, 1, 0], x[0, 4:8, 0:4].reshape(-1))


def test_a_size_that_the_factor_does_not_divide_is_refused_in_one_sentence(model):
    vqgan, params = model
    with pytest.raises(ValueError, match="20x20 pixels: both sides must be multiples of 8"):
        vqgan.apply(params, images(20))


def test_a_larger_decoder_leaves_encoder_and_codebook_as_they_are(model):
    vqgan, params = model
    large = vqgan.clone(decoder_filters=16, decoder_res_blocks=2)
    shapes = jax.eval_shape(lambda: nn.unbox(large.init(jax.random.key(0), images(16))))["params"]
    for part in ("encoder", "quantizer"):
        assert jax.tree.map(jnp.shape, shapes[part]) == jax.tree.map(jnp.shape, params["params"][part])
    size = lambda tree: sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert size(shapes["decoder"]) > 2 * size(params["params"]["decoder"])


@pytest.fixture(scope="module")
def local():
    vqgan = VQGAN(**SMALL | {"embed_dim": 192}, multipliers=(1,), patch=8, local=True)
    return vqgan, nn.unbox(vqgan.init(jax.random.key(1), images(16)))


def test_a_local_code_depends_on_its_own_square_alone(local):
    vqgan, params = local
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # away from the start, where the MLP is off
    x = images(32)
    y = x.at[:, 8:16, 16:24].set(0.0)
    before, after = (vqgan.apply(params, z, method="encode_vectors") for z in (x, y))
    changed = np.abs(after - before).max(axis=(0, 3)) > 0
    assert changed.sum() == 1 and changed[1, 2]


def test_local_vectors_start_as_far_apart_as_the_squares_themselves(local):
    vqgan, params = local
    x = images(16)
    vectors = vqgan.apply(params, x, method="encode_vectors")
    apart = np.linalg.norm(vectors[0] - vectors[1], axis=-1)
    squares = x.reshape(2, 2, 8, 2, 8, 3).swapaxes(2, 3).reshape(2, 2, 2, 192)
    np.testing.assert_allclose(apart, np.linalg.norm(squares[0] - squares[1], axis=-1), rtol=1e-4)
