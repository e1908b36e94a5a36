"""I3D against PyTorch's operations on the tensors by their published names, and against SciPy."""

import jax
import numpy as np
import pytest
from scipy.signal import correlate

from muse_jax.interop.i3d import FILE, load_i3d
from muse_jax.nn.i3d import I3D, MIN_FRAMES, Convolution
from muse_jax.nn.shapes import abstract_params
from tests.nn.i3d_state import random_state


@pytest.fixture(scope="module")
def state():
    return random_state()


def test_strided_convolutions_pad_as_tensorflow_does():
    """On even sizes a 7-wide kernel of stride 2 has two places of padding before and three after."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 8, 6, 10, 2)), rng.normal(size=(7, 7, 7, 2, 1))
    params = {"conv3d": {"kernel": kernel, "bias": np.zeros(1)}}
    found = Convolution(1, 7, 2).apply({"params": params}, x)
    padded = np.pad(x[0], [(2, 3)] * 3 + [(0, 0)])
    whole = sum(correlate(padded[..., c], kernel[..., c, 0], "valid") for c in range(2))
    np.testing.assert_allclose(found[0, ..., 0], np.maximum(whole[::2, ::2, ::2], 0), rtol=1e-4, atol=1e-4)


def test_the_network_has_the_published_number_of_parameters(state):
    trained = [name for name in state if "conv3d" in name or name.endswith(("bn.weight", "bn.bias"))]
    assert sum(state[name].size for name in trained) == 12_697_264


def test_pools_stand_where_the_paper_s_figure_3_has_them():
    """The pools of the blocks' branches, 3x3x3 with stride 1, are left out."""
    clips = jax.ShapeDtypeStruct((1, MIN_FRAMES, 224, 224, 3), np.float32)
    params = abstract_params(I3D(), np.zeros(clips.shape, np.float32))
    jaxpr = jax.make_jaxpr(lambda params, x: I3D().apply({"params": params}, x))(params, clips)
    pools = [
        (equation.params["window_dimensions"][1:4], equation.params["window_strides"][1:4])
        for equation in jaxpr.eqns
        if "window_dimensions" in equation.params
    ]
    assert [pool for pool in pools if pool != ((3, 3, 3), (1, 1, 1))] == [
        ((1, 3, 3), (1, 2, 2)),
        ((1, 3, 3), (1, 2, 2)),
        ((3, 3, 3), (2, 2, 2)),
        ((2, 2, 2), (2, 2, 2)),
        ((2, 7, 7), (1, 1, 1)),
    ]
    assert len(pools) == 5 + 9


@pytest.mark.slow
def test_logits_of_a_file_equal_pytorch(state, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(tensor) for name, tensor in state.items()}, tmp_path / FILE)
    clips = np.random.default_rng(1).uniform(-1, 1, (2, MIN_FRAMES, 224, 224, 3)).astype(np.float32)
    expected = torch_logits(torch, state, torch.from_numpy(clips.transpose(0, 4, 1, 2, 3)))
    found = jax.jit(I3D().apply)({"params": load_i3d(tmp_path)}, clips)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    print(f"I3D's logits against PyTorch: {error:.2e}")
    assert error < 1e-4


def torch_logits(torch, state, x):
    """I3D by PyTorch's functions, from the tensors of `state`."""
    functional = torch.nn.functional
    tensors = {name: torch.from_numpy(tensor) for name, tensor in state.items()}

    def pad(x, window, stride):
        sides = []
        for size, k, s in zip(x.shape[:1:-1], window[::-1], stride[::-1], strict=True):
            total = max((-(-size // s) - 1) * s + k - size, 0)
            sides += [total // 2, total - total // 2]
        return functional.pad(x, sides)

    def unit(x, name, stride=1):
        weight = tensors[f"{name}.conv3d.weight"]
        x = functional.conv3d(pad(x, weight.shape[2:], (stride,) * 3), weight, stride=stride)
        norm = (tensors[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.relu(functional.batch_norm(x, *norm, eps=1e-5))

    def pool(x, window, stride):
        return functional.max_pool3d(pad(x, window, stride), window, stride)

    def mixed(x, name):
        branches = [unit(x, f"{name}.b0"), *(unit(unit(x, f"{name}.b{i}a"), f"{name}.b{i}b") for i in (1, 2))]
        return torch.cat([*branches, unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b")], dim=1)

    x = pool(unit(x, "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    for block in ("3b", "3c", None, "4b", "4c", "4d", "4e", "4f", "", "5b", "5c"):
        if block:
            x = mixed(x, f"Mixed_{block}")
        else:
            window = (3, 3, 3) if block is None else (2, 2, 2)
            x = pool(x, window, (2, 2, 2))
    x = functional.avg_pool3d(x, (2, 7, 7), stride=1)
    logits = functional.conv3d(x, tensors["logits.conv3d.weight"], tensors["logits.conv3d.bias"])
    return logits.mean((2, 3, 4)).numpy()
