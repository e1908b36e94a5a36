import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from muse_jax.systems.amused.blocks import Modulation, modulate
from muse_jax.systems.amused.uvit import UVit2D, sinusoids

SMALL = {
    "vocab_size": 20,
    "codebook_size": 16,
    "grid": (4, 4),
    "width": 16,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 24,
    "channels": 12,
    "conv_blocks": 2,
    "conv_heads": 3,
    "embed_dim": 8,
    "micro_dim": 4,
}


def example(batch=2):
    keys = jax.random.split(jax.random.key(0), 3)
    tokens = jax.random.randint(keys[0], (batch, 16), 0, 20)
    micro = jnp.tile(jnp.array([[64.0, 64, 0, 0, 6]]), (batch, 1))
    return tokens, jax.random.normal(keys[1], (batch, 5, 8)), jax.random.normal(keys[2], (batch, 8)), micro


def test_published_size():
    inputs = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((1, 256), jnp.int32), ((1, 77, 768), float), ((1, 768), float), ((1, 5), float))
    ]
    params = jax.eval_shape(UVit2D().init, jax.random.key(0), *inputs)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 603_537_664


def test_modulate_centred_is_layer_norm():
    x = 3 + jax.random.normal(jax.random.key(0), (2, 5, 16))
    gain, shift = jax.random.normal(jax.random.key(1), (2, 2, 16))
    wide = np.asarray(x, np.float64)
    normal = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    expected = normal * gain[:, None] + shift[:, None]
    np.testing.assert_allclose(modulate(x, Modulation(gain, shift), centre=True), expected, atol=1e-4)


def test_sinusoids():
    np.testing.assert_allclose(
        sinusoids(jnp.array([2.0]), 4)[0], [np.cos(2), np.cos(0.02), np.sin(2), np.sin(0.02)], atol=1e-6
    )


def test_condition_and_guidance_apart_are_the_whole_forward():
    """The condition once, guidance mixed in the hidden states: the logits of two whole forwards, mixed."""
    network = UVit2D(**SMALL)
    tokens, text, pooled, micro = example(batch=2)
    params = jax.jit(network.init)(jax.random.key(3), tokens, text, pooled, micro)
    tokens = jnp.stack([tokens[0]] * 2)
    whole = jax.jit(network.apply)
    logits = whole(params, tokens, text, pooled, micro)
    assert logits.shape == (2, 16, 16) and logits.dtype == jnp.float32

    @jax.jit
    def apart(params):
        conditioning = network.apply(params, text, pooled, micro, method="condition")
        hidden = network.apply(params, tokens, conditioning, method="hidden")
        return network.apply(params, 10 * hidden[1:] - 9 * hidden[:1], method="logits")

    np.testing.assert_allclose(apart(params), 10 * logits[1:] - 9 * logits[:1], atol=1e-4)
    # Both the text and the micro-conditions reach the logits.
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    other = whole(params, tokens, text, pooled, micro.at[:, 4].set(2))
    assert np.abs(other - logits).max() > 1e-3


def test_parameters_carry_axis_names():
    params = jax.eval_shape(UVit2D(**SMALL).init, jax.random.key(0), *example())["params"]
    specs = nn.get_partition_spec(params)
    assert tuple(specs["layers"]["mlp_in"]["kernel"]) == ("layers", "embed", None, "mlp")
    assert tuple(specs["layers"]["attention"]["query_key_value"]["kernel"])[3] == "heads"
    assert tuple(specs["head"]["kernel"]) == ("embed", "vocab")


def test_refusals():
    with pytest.raises(ValueError, match="3 heads do not divide a width of 16"):
        UVit2D(**(SMALL | {"heads": 3}))
    with pytest.raises(ValueError, match="cannot be halved"):
        UVit2D(**(SMALL | {"grid": (3, 4)}), resample=True)
    tokens, text, pooled, micro = example()
    with pytest.raises(ValueError, match="5 micro-conditions"):
        jax.eval_shape(UVit2D(**SMALL).init, jax.random.key(0), tokens, text, pooled, micro[:, :4])
    with pytest.raises(ValueError, match="16 tokens for a grid of 2x2"):
        jax.eval_shape(UVit2D(**(SMALL | {"grid": (2, 2)})).init, jax.random.key(0), *example())
