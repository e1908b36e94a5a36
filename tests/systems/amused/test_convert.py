"""aMUSEd's checkpoints: against diffusers where it is installed, against the tensors themselves anywhere."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from muse_jax.systems.amused.convert import AMUSED_TABLE, convert_amused, load_uvit, load_vqmodel

CONFIG = {
    "hidden_size": 32,
    "cond_embed_dim": 12,
    "micro_cond_encode_dim": 8,
    "micro_cond_embed_dim": 40,
    "encoder_hidden_size": 12,
    "vocab_size": 40,
    "codebook_size": 32,
    "in_channels": 24,
    "block_out_channels": 24,
    "num_res_blocks": 2,
    "block_num_heads": 3,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "sample_size": 4,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def random_checkpoint(directory):
    """The tensors of a `UVit2DModel` of these sizes, written as diffusers writes them."""
    wide, channels, embed, mlp = 32, 24, 24, 48
    shapes = {
        "encoder_proj": (wide, 12),
        "encoder_proj_layer_norm": (wide,),
        "embed.embeddings": (40, embed),
        "embed.layer_norm": (embed,),
        "embed.conv": (channels, embed, 1, 1),
        "cond_embed.linear_1": (wide, 52),
        "cond_embed.linear_2": (wide, wide),
        "project_to_hidden_norm": (channels,),
        "project_to_hidden": (wide, channels),
        "project_from_hidden_norm": (wide,),
        "project_from_hidden": (channels, wide),
        "mlm_layer.conv1": (embed, channels, 1, 1),
        "mlm_layer.layer_norm": (embed,),
        "mlm_layer.conv2": (32, embed, 1, 1),
    }
    for stack in ("down", "up"):
        for layer in range(2):
            conv = f"{stack}_block.res_blocks.{layer}."
            attention = f"{stack}_block.attention_blocks.{layer}."
            shapes |= {
                conv + "depthwise": (channels, 1, 3, 3),
                conv + "norm": (channels,),
                conv + "channelwise_linear_1": (4 * channels, channels),
                conv + "channelwise_linear_2": (channels, 4 * channels),
                conv + "cond_embeds_mapper": (2 * channels, wide),
                attention + "kv_mapper": (channels, wide),
            }
            for i in "12":
                shapes[f"{attention}norm{i}"] = (channels,)
                shapes |= {
                    f"{attention}attn{i}.to_{part}": (channels, channels) for part in ("q", "k", "v", "out.0")
                }
    for layer in range(2):
        there = f"transformer_layers.{layer}."
        shapes |= {there + "ff.net.0.proj": (2 * mlp, wide), there + "ff.net.2": (wide, mlp)}
        for i in "123":
            shapes |= {f"{there}norm{i}.linear": (2 * wide, wide), f"{there}norm{i}.norm": (wide,)}
        shapes |= {
            f"{there}attn{i}.to_{part}": (wide, wide) for i in "12" for part in ("q", "k", "v", "out.0")
        }
    rng = np.random.default_rng(0)
    tensors = {f"{name}.weight": rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    for stack in ("down", "up"):
        for layer in range(2):
            for name in ("gamma", "beta"):
                path = f"{stack}_block.res_blocks.{layer}.channelwise_norm.{name}"
                tensors[path] = rng.standard_normal((1, 1, 1, 4 * channels), np.float32)
    write(directory, tensors)
    return tensors


def write(directory, tensors, **config):
    save_file(tensors, directory / WEIGHTS)
    config = CONFIG | {"_class_name": "UVit2DModel", "downsample": False, "upsample": False} | config
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")


def test_every_tensor_is_read_where_it_belongs(tmp_path):
    tensors = random_checkpoint(tmp_path)
    network, params = load_uvit(tmp_path)
    assert network.grid == (4, 4) and not network.resample
    layer = "transformer_layers.1."
    fused = params["layers"]["attention"]["query_key_value"]["kernel"]
    assert fused.shape == (2, 32, 3, 4, 8)
    for i, part in enumerate("qkv"):
        expected = tensors[f"{layer}attn1.to_{part}.weight"].T.reshape(32, 4, 8)
        np.testing.assert_array_equal(fused[1, :, i], expected)
    gain, shift = np.split(tensors[f"{layer}norm3.linear.weight"], 2)
    mapper = params["layers_conditioner"]["norm3"]["mapper"]["kernel"][1]
    np.testing.assert_array_equal(mapper, np.stack([gain.T, shift.T], 1))
    depthwise = tensors["up_block.res_blocks.1.depthwise.weight"]
    np.testing.assert_array_equal(params["up"]["depthwise"][1, 2, 0], depthwise[:, 0, 2, 0])
    # Nothing is left behind: as many numbers here as there.
    count = sum(leaf.size for leaf in _leaves(params))
    assert count == sum(tensor.size for tensor in tensors.values())


def _leaves(tree):
    return [leaf for value in tree.values() for leaf in _leaves(value)] if isinstance(tree, dict) else [tree]


def test_table_names_no_tensor_twice():
    names = [name for parts in AMUSED_TABLE.values() for name in parts.names]
    assert len(set(names)) == len(names)


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"There is no .*config\.json"):
        load_uvit(tmp_path)
    tensors = random_checkpoint(tmp_path)
    missing = {name: tensor for name, tensor in tensors.items() if name != "encoder_proj.weight"}
    write(tmp_path, missing)
    with pytest.raises(ValueError, match=r"no tensor 'encoder_proj\.weight'"):
        load_uvit(tmp_path)
    write(tmp_path, tensors | {"encoder_proj.weight": np.zeros((32, 13), np.float32)})
    with pytest.raises(ValueError, match="another size"):
        load_uvit(tmp_path)
    write(tmp_path, tensors, use_bias=True)
    with pytest.raises(ValueError, match="without biases"):
        load_uvit(tmp_path)


@pytest.mark.parametrize("resample", [False, True])
def test_forward_equals_diffusers(tmp_path, resample):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.UVit2DModel(**CONFIG, downsample=resample, upsample=resample).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # so that no gain is 1 and no bias 0
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    network, params = load_uvit(tmp_path)
    _compare(torch, model, network, params, batch=3)


@pytest.mark.slow
def test_forward_equals_diffusers_at_the_published_size(tmp_path):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.UVit2DModel(sample_size=16).eval()
    model.save_pretrained(tmp_path)
    network, params = load_uvit(tmp_path)
    _compare(torch, model, network, params, batch=1)


def _compare(torch, model, network, params, batch):
    config, rng = model.config, np.random.default_rng(0)
    tokens = rng.integers(0, config.vocab_size, (batch, network.grid[0] * network.grid[1]))
    text = rng.standard_normal((batch, 7, config.encoder_hidden_size), np.float32)
    pooled = rng.standard_normal((batch, config.cond_embed_dim), np.float32)
    micro = rng.uniform(0, 512, (batch, 5)).astype(np.float32)
    with torch.no_grad():
        images = torch.from_numpy(tokens).reshape(batch, *network.grid)
        theirs = model(images, *map(torch.from_numpy, (text, pooled, micro))).numpy()
    theirs = theirs.reshape(*theirs.shape[:2], -1).transpose(0, 2, 1)
    ours = network.apply({"params": params}, tokens.astype(np.int32), text, pooled, micro)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_damaged_files_and_those_of_other_models_are_refused(tmp_path):
    tensors = random_checkpoint(tmp_path)
    write(tmp_path, tensors | {"encoder_proj.bias": np.zeros(32, np.float32)})
    with pytest.raises(ValueError, match=r"has the tensor 'encoder_proj\.bias', which the model"):
        load_uvit(tmp_path)
    write(tmp_path, tensors | {"project_to_hidden.weight": tensors["project_to_hidden.weight"].T.copy()})
    with pytest.raises(ValueError, match=r"\['project_to_hidden\.weight'\] have shapes \[\(24, 32\)\]"):
        load_uvit(tmp_path)
    write(tmp_path, tensors, _class_name="UNet2DModel")
    with pytest.raises(ValueError, match="is of a UNet2DModel, not of a UVit2DModel"):
        load_uvit(tmp_path)
    write(tmp_path, tensors)
    with pytest.raises(ValueError, match="is of a UVit2DModel, not of a VQModel"):
        load_vqmodel(tmp_path)
    with pytest.raises(ValueError, match=r"There is no .*model_index\.json"):
        convert_amused(tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    for content in (whole[:-8], whole[:100], b"", b"\x10" + b"\0" * 7 + b"not a header at all"):
        (tmp_path / WEIGHTS).write_bytes(content)
        with pytest.raises(ValueError, match="is not a complete safetensors file"):
            load_uvit(tmp_path)
