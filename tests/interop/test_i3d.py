import numpy as np
import pytest

from muse_jax.interop.i3d import FILE, convert_i3d, load_i3d
from tests.nn.i3d_state import random_state


@pytest.fixture(scope="module")
def state():
    return random_state()


def test_a_checkpoint_with_another_tensor_or_shape_is_refused(state):
    with pytest.raises(ValueError, match="it lacks Mixed_5c.b3b.bn.running_var"):
        convert_i3d({name: x for name, x in state.items() if name != "Mixed_5c.b3b.bn.running_var"})
    with pytest.raises(ValueError, match="not I3D of Kinetics-400: it also has the tensor Mixed_6a.weight"):
        convert_i3d({**state, "Mixed_6a.weight": np.zeros(1)})
    with pytest.raises(ValueError, match=r"must have \(1024, 400\)"):
        convert_i3d({**state, "logits.conv3d.weight": np.zeros((600, 1024, 1, 1, 1))})


def test_batch_norm_is_folded_in(state):
    params, name = convert_i3d(state), "Conv3d_2b_1x1"
    x = np.random.default_rng(0).normal(size=64).astype(np.float32)
    y = state[f"{name}.conv3d.weight"][:, :, 0, 0, 0] @ x
    mean, variance, weight, bias = (
        state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    expected = (y - mean) / np.sqrt(variance + 1e-5) * weight + bias
    conv = params[name]["conv3d"]
    np.testing.assert_allclose(x @ conv["kernel"][0, 0, 0] + conv["bias"], expected, rtol=1e-4, atol=1e-5)


def test_kernels_keep_the_order_of_time_rows_and_columns(state):
    kernel = convert_i3d(state)["Conv3d_1a_7x7"]["conv3d"]["kernel"]
    scale = state["Conv3d_1a_7x7.bn.weight"] / np.sqrt(state["Conv3d_1a_7x7.bn.running_var"] + 1e-5)
    expected = state["Conv3d_1a_7x7.conv3d.weight"][5, 2, 1, 3, 6] * scale[5]
    np.testing.assert_allclose(kernel[1, 3, 6, 2, 5], expected, rtol=1e-5)


def test_missing_weights_are_named_and_found_in_pytorch_s_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="no I3D weights at .*hub/checkpoints: put i3d_pretrained_400.pt"):
        load_i3d()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(b"no pickle")
    with pytest.raises(ValueError, match=FILE):
        load_i3d()
