"""LPIPS against a loop in numpy, on random weights."""

import io
import itertools
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.checkpointing.safetensors import weights_to_bytes
from muse_jax.interop.lpips import _ArrayUnpickler, convert_lpips, load_lpips_vgg
from muse_jax.nn.vgg import STAGES
from muse_jax.tokenizers.lpips import cut_lpips, lpips, lpips_shapes


def stored(seed=0):
    """Parameter tree as the package pickles it."""
    rng = np.random.default_rng(seed)
    widths = [3] + [width for count, width in STAGES for _ in range(count)]
    vgg = {
        f"Conv_{i}": {
            "kernel": rng.normal(scale=(9 * a) ** -0.5, size=(3, 3, a, b)).astype(np.float32),
            "bias": rng.normal(scale=0.1, size=b).astype(np.float32),
        }
        for i, (a, b) in enumerate(itertools.pairwise(widths))
    }
    heads = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": rng.random((1, 1, width, 1), np.float32)}}
        for i, (_, width) in enumerate(STAGES)
    }
    return {"VGG16_0": vgg, **heads}


@pytest.fixture(scope="module")
def params():
    return convert_lpips(stored())


def images(seed):
    return np.random.default_rng(seed).uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)


def convolved(x, kernel, bias):
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    out = np.empty((*x.shape[:2], kernel.shape[-1]))
    for i, j in np.ndindex(*x.shape[:2]):
        out[i, j] = np.einsum("abc,abcd->d", padded[i : i + 3, j : j + 3], kernel) + bias
    return np.maximum(out, 0)


def test_two_stages_equal_a_loop(params):
    expected, maps = 0.0, []
    for x in (images(1)[0], images(2)[0]):
        x = (x - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        stages = []
        for stage in range(2):
            if stage:
                x = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max((1, 3))
            for i in (2 * stage, 2 * stage + 1):
                conv = params["vgg"][f"conv_{i}"]
                x = convolved(x, conv["kernel"].astype(np.float64), conv["bias"])
            stages.append(x / (np.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10))
        maps.append(stages)
    for stage, (a, b) in enumerate(zip(*maps, strict=True)):
        expected += ((a - b) ** 2 @ params["heads"][str(stage)]).mean()
    distance = lpips(cut_lpips(params, 2), images(1), images(2))
    np.testing.assert_allclose(distance, [expected], rtol=1e-3)


def test_images_have_no_distance_to_themselves_and_a_finite_gradient(params):
    cut = cut_lpips(params, 3)
    assert lpips(cut, images(1), images(1)) == 0
    flat = jnp.zeros((1, 8, 8, 3))
    gradient = jax.grad(lambda x: lpips(cut, x, images(1))[0])(flat)
    assert jnp.isfinite(gradient).all() and jnp.abs(gradient).max() > 0


def test_lpips_shapes_are_those_of_the_loaded_weights(params):
    jax.tree.map(lambda shape, leaf: np.testing.assert_equal(shape.shape, leaf.shape), lpips_shapes(), params)


def test_a_cut_file_gives_the_same_weights_in_half_precision(params, tmp_path):
    cut = cut_lpips(params, 3)
    (tmp_path / "cut.safetensors").write_bytes(weights_to_bytes(cut))
    read = load_lpips_vgg(str(tmp_path / "cut.safetensors"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), read, cut)
    with pytest.raises(ValueError, match="There are no LPIPS weights in"):
        load_lpips_vgg(str(tmp_path / "none.safetensors"))


def test_a_pickle_of_arrays_is_read_and_any_other_is_refused():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = pickle.dumps({"a": array}, protocol=3).replace(b"numpy._core.", b"numpy.core.")
    np.testing.assert_array_equal(_ArrayUnpickler(io.BytesIO(content)).load()["a"], array)
    with pytest.raises(ValueError, match="only numpy arrays are admitted"):
        _ArrayUnpickler(io.BytesIO(pickle.dumps(os.getcwd))).load()
