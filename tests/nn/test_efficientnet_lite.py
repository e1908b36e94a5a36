import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.interop.efficientnet_lite import load_efficientnet_lite0
from muse_jax.nn.efficientnet_lite import BLOCKS, EfficientNetLite0


def test_the_pretrained_weights_fit_the_network_and_its_parameter_count():
    params = load_efficientnet_lite0()
    shapes = jax.eval_shape(lambda: EfficientNetLite0().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes["params"])
    # 4.65 million (Lite0's published count), minus the two numbers per channel that folding removes.
    folded = 4_652_008 - sum(leaf.size for leaf in jax.tree.leaves(params))
    norms = 32 + 1280 + sum(_norm_channels())
    assert folded == norms


def _norm_channels():
    width = 32
    for _, _, expansion, features in BLOCKS:
        hidden = width * expansion
        yield (hidden if expansion > 1 else 0) + hidden + features
        width = features


def test_taps_halve_the_size_and_stop_early():
    params = {k: v for k, v in load_efficientnet_lite0().items() if k in ("stem", "block_1", "block_2")}
    apply = jax.jit(lambda params, x: EfficientNetLite0().apply({"params": params}, x, taps=(0, 2)))
    maps = apply(params, jnp.zeros((1, 32, 24, 3)))
    assert [m.shape for m in maps] == [(1, 16, 12, 32), (1, 8, 6, 24)]


def test_taps_out_of_range_are_refused():
    with pytest.raises(ValueError, match="must be 0"):
        EfficientNetLite0().apply({"params": {}}, jnp.zeros((1, 32, 32, 3)), taps=(17,))
