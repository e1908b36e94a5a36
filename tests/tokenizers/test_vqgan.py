import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from muse_jax.tokenizers import VQGAN
from tests.systems.probing import random_params

SMALL = {"filters": 8, "num_res_blocks": 1, "codebook_size": 16, "embed_dim": 4}


def images(size, batch=2):
    return jax.random.uniform(jax.random.key(0), (batch, size, size, 3), minval=-1)


@pytest.fixture(scope="module")
def model():
    vqgan = VQGAN(**SMALL, multipliers=(1, 2), patch=4)
    return vqgan, random_params(lambda key: vqgan.init(key, images(16)))


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
        ids = jax.eval_shape(vqgan.encode, params["params"], images(size))
        assert ids.shape == (2, size // 8, size // 8)
        assert jax.eval_shape(vqgan.decode, params["params"], ids).shape == (2, size, size, 3)


def test_decoding_the_codes_of_an_image_is_its_reconstruction(model):
    vqgan, params = model

    @jax.jit
    def run(params, x):
        ids = vqgan.encode(params["params"], x)
        return vqgan.apply(params, x), ids, vqgan.decode(params["params"], ids)

    (reconstruction, quantized), ids, decoded = run(params, images(16))
    np.testing.assert_array_equal(ids, quantized.ids)
    np.testing.assert_allclose(decoded, reconstruction, atol=1e-5)


def test_the_encoder_learns_through_the_straight_through_gradient(model):
    vqgan, params = model

    def loss(params):
        reconstruction, _ = vqgan.apply(params, images(16))
        return jnp.mean((reconstruction - images(16)) ** 2)

    gradient = jax.jit(jax.grad(loss))(params)["params"]["encoder"]
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 0


class Plain:
    """The network in numpy and float64, one method per part, with weights by their names."""

    def __init__(self, vqgan, params):
        self.vqgan = vqgan
        self.params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])

    def conv(self, x, params):
        kernel = params["kernel"]
        edge = kernel.shape[0] // 2
        padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))
        return np.einsum("bhwcij,ijco->bhwo", windows, kernel) + params["bias"]

    def norm_swish(self, x, params):
        batch, height, width, channels = x.shape
        groups = min(32, channels)
        grouped = x.reshape(batch, height * width, groups, channels // groups)
        mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
        x = ((grouped - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)
        x = x * params["GroupNorm_0"]["scale"] + params["GroupNorm_0"]["bias"]
        return x / (1 + np.exp(-x))

    def res_block(self, x, params):
        h = self.conv(self.norm_swish(x, params["NormSwish_0"]), params["Conv_0"])
        h = self.conv(self.norm_swish(h, params["NormSwish_1"]), params["Conv_1"])
        return h + (self.conv(x, params["skip"]) if "skip" in params else x)

    def encode(self, x):
        params, patch = self.params["encoder"], self.vqgan.patch
        blocks = iter(range(99))
        batch, height, width, _ = x.shape
        x = x.reshape(batch, height // patch, patch, width // patch, patch, 3).swapaxes(2, 3)
        x = self.conv(x.reshape(batch, height // patch, width // patch, -1), params["Conv_0"])
        for level in range(len(self.vqgan.multipliers)):
            if level:
                x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
            for _ in range(self.vqgan.num_res_blocks):
                x = self.res_block(x, params[f"ResBlock_{next(blocks)}"])
        for _ in range(self.vqgan.num_res_blocks):
            x = self.res_block(x, params[f"ResBlock_{next(blocks)}"])
        assert f"ResBlock_{next(blocks)}" not in params
        return self.conv(self.norm_swish(x, params["NormSwish_0"]), params["Conv_1"])

    def nearest(self, vectors):
        rows = self.params["quantizer"]["codebook"]
        return ((vectors[..., None, :] - rows) ** 2).sum(-1).argmin(-1)

    def decode(self, ids):
        params, patch = self.params["decoder"], self.vqgan.decoder_patch or self.vqgan.patch
        multipliers = self.vqgan.decoder_multipliers or self.vqgan.multipliers
        convs, blocks = iter(range(99)), iter(range(99))
        x = self.conv(self.params["quantizer"]["codebook"][ids], params[f"Conv_{next(convs)}"])
        for _ in range(self.vqgan.num_res_blocks):
            x = self.res_block(x, params[f"ResBlock_{next(blocks)}"])
        for level in reversed(range(len(multipliers))):
            for _ in range(self.vqgan.num_res_blocks):
                x = self.res_block(x, params[f"ResBlock_{next(blocks)}"])
            if level:
                rows, columns = (np.arange(2 * size) // 2 for size in x.shape[1:3])
                x = self.conv(x[:, rows][:, :, columns], params[f"Conv_{next(convs)}"])
        assert f"ResBlock_{next(blocks)}" not in params
        x = self.conv(self.norm_swish(x, params["NormSwish_0"]), params[f"Conv_{next(convs)}"])
        batch, height, width, _ = x.shape
        x = x.reshape(batch, height, width, patch, patch, 3).swapaxes(2, 3)
        return x.reshape(batch, height * patch, width * patch, 3)


@pytest.mark.parametrize(
    "fields", [{"patch": 1}, {"patch": 2, "decoder_multipliers": (1, 1, 2), "decoder_patch": 1}]
)
def test_the_forward_pass_equals_a_numpy_implementation(fields):
    # Width 32, one channel a group, and width 64 in groups of two; an image that is not square.
    vqgan = VQGAN(**SMALL | {"filters": 32}, multipliers=(1, 2), **fields)
    x = np.asarray(images(16))[:, :, :8]
    params = random_params(lambda key: vqgan.init(key, x))

    @jax.jit
    def run(params, x):
        reconstruction, quantized = vqgan.apply(params, x)
        return vqgan.apply(params, x, method="encode_vectors"), quantized.ids, reconstruction

    vectors, ids, reconstruction = run(params, x)
    plain = Plain(vqgan, params)
    expected = plain.encode(x.astype(np.float64))
    np.testing.assert_allclose(vectors, expected, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_array_equal(ids, plain.nearest(expected))
    expected = plain.decode(np.asarray(ids))
    np.testing.assert_allclose(reconstruction, expected, atol=1e-3 * np.abs(expected).max())


def test_a_size_that_is_no_multiple_of_the_downsampling_factor_is_refused(model):
    vqgan, params = model
    with pytest.raises(ValueError, match="20x20 pixels: both sides must be multiples of 8"):
        jax.eval_shape(vqgan.apply, params, images(20))


def test_a_larger_decoder_does_not_change_encoder_and_codebook(model):
    vqgan, params = model
    large = vqgan.clone(decoder_filters=16, decoder_res_blocks=2)
    shapes = jax.eval_shape(lambda: nn.unbox(large.init(jax.random.key(0), images(16))))["params"]
    for part in ("encoder", "quantizer"):
        assert jax.tree.map(jnp.shape, shapes[part]) == jax.tree.map(jnp.shape, params["params"][part])
    size = lambda tree: sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert size(shapes["decoder"]) > 2 * size(params["params"]["decoder"])


LOCAL = VQGAN(**SMALL | {"embed_dim": 192}, multipliers=(1,), patch=8, local=True)
encode_local = jax.jit(lambda params, x: LOCAL.apply(params, x, method="encode_vectors"))


def test_a_local_code_depends_only_on_its_own_patch():
    x = images(32)
    params = random_params(lambda key: LOCAL.init(key, x, method="encode_vectors"))
    y = x.at[:, 8:16, 16:24].set(0.0)
    before, after = (encode_local(params, z) for z in (x, y))
    changed = np.abs(after - before).max(axis=(0, 3)) > 0
    assert changed.sum() == 1 and changed[1, 2]


def test_initial_local_vectors_of_full_width_preserve_distances_between_patches():
    x = images(16)
    init = lambda key: nn.unbox(LOCAL.init(key, x, method="encode_vectors"))  # noqa: E731
    vectors = encode_local(jax.jit(init)(jax.random.key(1)), x)
    apart = np.linalg.norm(vectors[0] - vectors[1], axis=-1)
    squares = x.reshape(2, 2, 8, 2, 8, 3).swapaxes(2, 3).reshape(2, 2, 2, 192)
    np.testing.assert_allclose(apart, np.linalg.norm(squares[0] - squares[1], axis=-1), rtol=1e-4)
