"""CLIP against transformers, with random weights; skipped where it is not installed."""

import json

import jax
import numpy as np
import pytest

from muse_jax.interop.clip import load_clip_text, load_clip_vision

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {**SMALL, "vocab_size": 60, "max_position_embeddings": 11, "eos_token_id": 59, "bos_token_id": 58}
VISION = {**SMALL, "hidden_size": 24, "image_size": 32, "patch_size": 8}


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def model(request, tmp_path_factory):
    """A folder with a CLIP of random weights, and the same in PyTorch."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    parts = {
        "text_config": {**TEXT, "hidden_act": request.param},
        "vision_config": {**VISION, "hidden_act": request.param},
    }
    network = transformers.CLIPModel(transformers.CLIPConfig(**parts, projection_dim=20)).eval()
    with torch.no_grad():  # the library's own initial weights hardly change what they are given
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    folder = tmp_path_factory.mktemp("clip")
    network.save_pretrained(folder)
    return folder, network


def test_image_embeddings_equal_transformers(model, record_property):
    import torch

    folder, network = model
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        states = network.vision_model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        expected = network.visual_projection(states.pooler_output).numpy()
    module, params = load_clip_vision(folder)
    found = jax.jit(module.apply)({"params": params}, images)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    print(f"CLIP image embeddings against transformers: {error:.1e}")
    assert error < 1e-5


def test_text_states_and_embeddings_equal_transformers(model):
    import torch

    folder, network = model
    ids = np.random.default_rng(0).integers(0, 58, (3, 11))
    end = np.array([4, 10, 1])
    ids[np.arange(11) >= end[:, None]] = 59
    with torch.no_grad():
        states = network.text_model(torch.from_numpy(ids))
        expected = network.text_projection(states.pooler_output).numpy()
    module, params = load_clip_text(folder)
    found_states, found = jax.jit(module.apply)({"params": params}, ids, end)
    for ours, theirs in ((found_states, states.last_hidden_state.numpy()), (found, expected)):
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        print(f"CLIP text against transformers: {error:.1e}")
        assert error < 1e-5


def test_folders_without_a_clip_are_refused(tmp_path):
    with pytest.raises(ValueError, match="config.json is not the config of a CLIP"):
        load_clip_vision(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {}}))
    with pytest.raises(ValueError, match="config.json is not the config of a CLIP"):
        load_clip_text(tmp_path)
    parts = {"text_config": TEXT, "vision_config": {**VISION, "hidden_act": "relu"}, "projection_dim": 4}
    (tmp_path / "config.json").write_text(json.dumps(parts))
    with pytest.raises(ValueError, match="has hidden_act 'relu'"):
        load_clip_vision(tmp_path)
    parts["vision_config"]["hidden_act"] = "gelu"
    (tmp_path / "config.json").write_text(json.dumps(parts))
    with pytest.raises(ValueError, match="model.safetensors does not exist"):
        load_clip_vision(tmp_path)
