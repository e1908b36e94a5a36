"""MaskGIT's released files: the networks written out in numpy, and what is refused."""

import numpy as np
import pytest
from scipy.signal import correlate2d

from muse_jax import load_pipeline
from muse_jax.systems.maskgit.convert import convert_maskgit
from tests.systems.maskgit import released


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    return folder, released.write_released(folder)


@pytest.fixture(scope="module")
def pipe(arrays):
    return convert_maskgit(arrays[0])


def layer_norm(x, arrays, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    return x * arrays[f"{name}/scale"] + arrays[f"{name}/bias"]


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def transformer(arrays, tokens, number):
    """Logits of one image, one head after the other, from the published description."""
    ids = [released.CODES + number, *tokens]
    x = arrays["Embed_0/word_embeddings/embedding"][ids] + arrays["Embed_0/position_embeddings/embedding"]
    x = layer_norm(x, arrays, "Embed_0/embeddings_ln")
    for layer in range(released.DEPTH):
        name = f"TransformerLayer_{layer}"
        attention = f"{name}/Attention_0/self_attention"
        mixed = arrays[f"{attention}/out/bias"] + np.zeros_like(x)
        for head in range(released.HEADS):
            query, key, value = (
                x @ arrays[f"{attention}/{part}/kernel"][:, head] + arrays[f"{attention}/{part}/bias"][head]
                for part in ("query", "key", "value")
            )
            scores = np.exp(query @ key.T / np.sqrt(query.shape[1]))
            mixed += scores / scores.sum(1, keepdims=True) @ value @ arrays[f"{attention}/out/kernel"][head]
        x = layer_norm(mixed + x, arrays, f"{name}/Attention_0/attention_output_ln")
        mlp = f"{name}/Mlp_0"
        hidden = gelu(
            x @ arrays[f"{mlp}/intermediate_output/kernel"] + arrays[f"{mlp}/intermediate_output/bias"]
        )
        out = hidden @ arrays[f"{mlp}/layer_output/kernel"] + arrays[f"{mlp}/layer_output/bias"]
        x = layer_norm(out + x, arrays, f"{mlp}/layer_output_ln")
    x = gelu(x @ arrays["MlmLayer_0/mlm_dense/kernel"] + arrays["MlmLayer_0/mlm_dense/bias"])
    x = layer_norm(x, arrays, "MlmLayer_0/mlm_ln")
    logits = x @ arrays["Embed_0/word_embeddings/embedding"].T + arrays["MlmLayer_0/mlm_bias/bias"]
    return logits[1:, : released.CODES]


def convolve(x, arrays, name):
    kernel = arrays[f"{name}/kernel"]
    planes = [
        sum(correlate2d(x[..., i], kernel[..., i, o], "same") for i in range(x.shape[-1]))
        for o in range(kernel.shape[-1])
    ]
    return np.stack(planes, -1) + arrays.get(f"{name}/bias", 0)


def norm_swish(x, arrays, name):
    """Group norm of 32 groups, then swish."""
    groups = x.reshape(*x.shape[:2], 32, -1)
    mean, variance = (f((0, 1, 3), keepdims=True) for f in (groups.mean, groups.var))
    x = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)
    x = x * arrays[f"{name}/scale"] + arrays[f"{name}/bias"]
    return x / (1 + np.exp(-x))


def block(x, arrays, name):
    h = convolve(norm_swish(x, arrays, f"{name}/GroupNorm_0"), arrays, f"{name}/Conv_0")
    h = convolve(norm_swish(h, arrays, f"{name}/GroupNorm_1"), arrays, f"{name}/Conv_1")
    return h + (convolve(h, arrays, f"{name}/Conv_2") if f"{name}/Conv_2/kernel" in arrays else x)


def encode(image, arrays):
    x = block(convolve(image, arrays, "encoder/Conv_0"), arrays, "encoder/ResBlock_0")
    x = (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
    x = block(block(x, arrays, "encoder/ResBlock_1"), arrays, "encoder/ResBlock_2")
    x = convolve(norm_swish(x, arrays, "encoder/GroupNorm_0"), arrays, "encoder/Conv_1")
    return ((x[..., None, :] - arrays["quantizer/codebook"]) ** 2).sum(-1).argmin(-1)


def decode(ids, arrays):
    x = convolve(arrays["quantizer/codebook"][ids], arrays, "decoder/Conv_0")
    x = block(block(x, arrays, "decoder/ResBlock_0"), arrays, "decoder/ResBlock_1")
    x = convolve(x.repeat(2, 0).repeat(2, 1), arrays, "decoder/Conv_1")
    x = norm_swish(block(x, arrays, "decoder/ResBlock_2"), arrays, "decoder/GroupNorm_0")
    return convolve(x, arrays, "decoder/Conv_2")


def test_logits_equal_the_network_written_out(arrays, pipe):
    network, mask = pipe.transformer.network, released.CODES + released.CLASSES
    assert (network.vocab_size, network.num_classes, network.mask_id) == (12, 5, mask)
    tokens = np.array([[3, mask, mask, 11], [mask, 0, 7, mask]])
    found = network.apply({"params": pipe.transformer.params}, tokens, np.array([4, 0]))
    for row, number in enumerate((4, 0)):
        np.testing.assert_allclose(found[row], transformer(arrays[1], tokens[row], number), atol=1e-4)
    print(f"MaskGIT logits: {np.abs(found[0] - transformer(arrays[1], tokens[0], 4)).max():.1e}")


def test_codes_and_pixels_equal_the_network_written_out(arrays, pipe):
    tokenizer, params = pipe.transformer.tokenizer, pipe.transformer.tokenizer_params
    image = np.random.default_rng(1).uniform(size=(4, 4, 3)).astype(np.float32)
    ids = tokenizer.encode(params, image[None] * 2 - 1)
    np.testing.assert_array_equal(ids[0], encode(image, arrays[1]))
    codes = np.array([[[3, 1], [10, 3]]])
    pixels = (tokenizer.decode(params, codes)[0] + 1) / 2
    np.testing.assert_allclose(pixels, decode(codes[0], arrays[1]), atol=1e-4)


def test_saved_and_loaded_it_draws_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, "float32")
    loaded = load_pipeline(tmp_path)
    images = loaded.generate([0, "4"], num_samples=2, num_steps=2)
    assert images.shape == (2, 2, 4, 4, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, pipe.generate([0, 4], num_samples=2, num_steps=2))
    assert (images[0] != images[1]).any() and (images[:, 0] != images[:, 1]).any()
    mask = np.zeros((4, 4), bool)
    mask[:2, 2:] = True
    drawn = loaded.inpaint(images[0], mask, [1, 2], num_steps=2)
    assert (drawn[:, ~mask] == images[0][:, ~mask]).all()


def test_bad_classes(pipe):
    for classes, words in (
        ([5], "numbers from 0 to 4, given 5"),
        (["cat"], "must be a whole number, such as 207, given 'cat'"),
        ("4", "must be a list of numbers"),
        ([], "must be a list of numbers"),
    ):
        with pytest.raises(ValueError, match=words):
            pipe.generate(classes)


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has 0 files tokenizer_imagenet"):
        convert_maskgit(tmp_path)
    released.write_released(tmp_path, drop="TransformerLayer_1/Mlp_0/layer_output/bias")
    with pytest.raises(ValueError, match="no tensor 'TransformerLayer_1/Mlp_0/layer_output/bias'"):
        convert_maskgit(tmp_path)
    released.write_released(tmp_path, other=np.zeros(1, np.float32))
    with pytest.raises(ValueError, match="has the tensor 'other'"):
        convert_maskgit(tmp_path)
    file = tmp_path / "tokenizer_imagenet256_checkpoint"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match="is not a complete checkpoint of Flax"):
        convert_maskgit(tmp_path)
