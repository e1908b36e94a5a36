import hashlib

import numpy as np
import pytest

from muse_jax.interop.inception import FILES, convert_inception, find_inception, load_inception
from tests.nn.inception_state import random_state


@pytest.fixture(scope="module")
def state():
    return random_state()


def test_a_checkpoint_with_another_tensor_or_shape_is_refused(state):
    with pytest.raises(ValueError, match="it lacks Mixed_7c.branch1x1.bn.weight"):
        convert_inception({k: v for k, v in state.items() if k != "Mixed_7c.branch1x1.bn.weight"})
    with pytest.raises(ValueError, match="also has the tensor Mixed_8a.conv.weight"):
        convert_inception({**state, "Mixed_8a.conv.weight": np.zeros(1)})
    with pytest.raises(ValueError, match="must have \\(2048, 1008\\)"):
        convert_inception({**state, "fc.weight": np.zeros((1000, 2048))})


def test_batch_norm_is_folded_in(state):
    params, name = convert_inception(state), "Conv2d_3b_1x1"
    x = np.random.default_rng(0).normal(size=64).astype(np.float32)
    y = state[f"{name}.conv.weight"][:, :, 0, 0] @ x
    mean, variance, weight, bias = (
        state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    expected = (y - mean) / np.sqrt(variance + 1e-3) * weight + bias
    conv = params[name]["conv"]
    np.testing.assert_allclose(x @ conv["kernel"][0, 0] + conv["bias"], expected, rtol=1e-4, atol=1e-5)


def test_files_are_found_by_their_usual_names_and_refused_by_their_content(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="no Inception weights at .*hub/checkpoints"):
        find_inception()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / FILES[1]).write_bytes(b"other")
    assert find_inception() == folder / FILES[1] == find_inception(folder)
    content = hashlib.sha256(b"other").hexdigest()[:8]
    with pytest.raises(ValueError, match=f"its SHA-256 starts with {content}, not 6726825d"):
        load_inception()
