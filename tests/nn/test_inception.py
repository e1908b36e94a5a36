"""Inception-v3 against PyTorch's, with random weights; skipped where torch is not installed."""

import jax
import numpy as np
import pytest

from muse_jax.evaluation.embedders import EMBEDDERS
from muse_jax.interop.inception import convert_inception
from muse_jax.nn.inception import InceptionV3
from tests.nn.inception_state import random_state, torch_state

torch = pytest.importorskip("torch")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def state():
    return random_state()


def embed(state, images):
    """Features and logits of float images in [-1, 1]."""
    return jax.jit(InceptionV3().apply)({"params": convert_inception(state)}, images)


def relative_error(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_features_equal_pytorch_fid(state, monkeypatch, record_property):
    inception = pytest.importorskip("pytorch_fid.inception")
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: torch_state(state))
    network = inception.InceptionV3(resize_input=False, normalize_input=False).eval()
    images = np.random.default_rng(0).uniform(-1, 1, (2, 299, 299, 3)).astype(np.float32)
    with torch.no_grad():
        (expected,) = network(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    error = relative_error(embed(state, images)[0], expected[:, :, 0, 0])
    record_property("relative_error", error)
    print(f"pool3 against pytorch-fid: {error:.2e}")
    assert error < TOLERANCE


def test_spatial_features_are_tensorflow_s_mixed_6_conv(state, monkeypatch):
    """PyTorch's names for TensorFlow's mixed_4 to mixed_7 are Mixed_6b to Mixed_6e."""
    inception = pytest.importorskip("pytorch_fid.inception")
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: torch_state(state))
    layers, kept = inception.fid_inception_v3().eval(), []
    layers.Mixed_6d.branch1x1.register_forward_hook(lambda *call: kept.append(call[-1]))
    images = np.random.default_rng(0).uniform(0, 255, (2, 299, 299, 3)).astype(np.float32)
    with torch.no_grad():
        layers(torch.from_numpy((images.transpose(0, 3, 1, 2) - 128) / 128))
    embedder = EMBEDDERS["inception"]
    found = jax.jit(embedder.embed)(convert_inception(state), images)[2]
    expected = kept[0][:, :7].permute(0, 2, 3, 1).reshape(2, embedder.spatial)
    error = relative_error(found, expected)
    print(f"spatial features against pytorch-fid: {error:.2e}")
    assert error < TOLERANCE


def test_features_logits_and_resizing_equal_torch_fidelity(state, tmp_path, record_property):
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from muse_jax.evaluation.resizing import resize_images

    torch.save(torch_state(state), tmp_path / "state.pth")
    network = FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], str(tmp_path / "state.pth")
    )
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 48, 3), np.uint8)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    found = embed(state, (resize_images(images, 299, "tf1") - 128) / 128)
    for name, ours, theirs in zip(("pool3", "logits"), found, expected, strict=True):
        error = relative_error(ours, theirs)
        record_property(name, error)
        print(f"{name} against torch-fidelity: {error:.2e}")
        assert error < TOLERANCE
