"""Published VQGANs: against diffusers' networks, restricted reading, and use as a tokenizer."""

import re

import jax
import numpy as np
import pytest

from muse_jax.checkpointing.source import open_source
from muse_jax.media.image import to_unit_range
from muse_jax.systems.taming.convert import convert_llamagen, convert_taming
from muse_jax.tokenizers import TamingVQGAN
from tests.interop.test_torch_pickle import Call, Global, Storage, tensor, write_zip
from tests.tokenizers.test_taming import tensors_of

SMALL = TamingVQGAN((32, 32), 1, (1,), True, 4, 16, 6)


def write(path, state, key="state_dict", **more):
    """A checkpoint as PyTorch writes it; Lightning's names its callbacks by their classes."""
    storages = [Storage(str(i), array.ravel()) for i, array in enumerate(state.values())]
    tensors = {
        name: tensor(storage, array.shape, tuple(s // 4 for s in np.ascontiguousarray(array).strides))
        for storage, (name, array) in zip(storages, state.items(), strict=True)
    }
    write_zip(path, {key: tensors, "epoch": 3, **more}, storages)
    return path


def test_a_lightning_checkpoint_becomes_a_tokenizer_that_configs_can_name(tmp_path):
    state = tensors_of(SMALL, "taming") | {"loss.discriminator.main.0.weight": np.zeros(3, np.float32)}
    checkpoint = Global("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    file = write(tmp_path / "last.ckpt", state, callbacks=[checkpoint, {"best_model_path": ""}])
    converted = convert_taming(file)
    assert converted.module == SMALL
    converted.save_pretrained(tmp_path / "out", "float32")
    source = open_source(tmp_path / "out").tokenizer()
    assert source.module == SMALL
    kernel = source.params["encoder"]["middle_attention_query"]["kernel"]
    np.testing.assert_array_equal(kernel[0, 0], state["encoder.mid.attn_1.q.weight"][:, :, 0, 0].T)
    assert len(source.encoder_hash) == 64


def test_a_llamagen_checkpoint_has_unit_codes(tmp_path):
    state = tensors_of(SMALL, "llamagen") | {"quantize.codebook_used": np.zeros(5, np.float32)}
    converted = convert_llamagen(write(tmp_path / "vq_ds16_c2i.pt", state, "model"))
    assert converted.module.normalize_codes
    assert converted.module.clone(normalize_codes=False) == SMALL


def test_refusals(tmp_path):
    state = tensors_of(SMALL, "taming")
    with pytest.raises(ValueError, match="There is no file"):
        convert_taming(tmp_path / "no.ckpt")
    surplus = write(tmp_path / "a.ckpt", state | {"other": np.zeros(1, np.float32)})
    with pytest.raises(ValueError, match="has the tensor 'other'"):
        convert_taming(surplus)
    with pytest.raises(ValueError, match="has no 'model', under which"):
        convert_llamagen(surplus)
    del state["encoder.mid.block_1.conv1.bias"]
    with pytest.raises(ValueError, match=r"no tensor 'encoder.mid.block_1.conv1.bias'"):
        convert_taming(write(tmp_path / "b.ckpt", state))
    proof = tmp_path / "proof"
    call = Call(Global("os", "mkdir"), str(proof))
    with pytest.raises(ValueError, match="refers to os.mkdir"):
        convert_taming(write(tmp_path / "c.ckpt", state, callbacks=call))
    called = Call(Global("pytorch_lightning.utilities", "run"), str(proof))
    with pytest.raises(ValueError, match="not a supported PyTorch checkpoint"):
        convert_taming(write(tmp_path / "d.ckpt", state, callbacks=called))
    assert not proof.exists()
    whole = (tmp_path / "a.ckpt").read_bytes()
    (tmp_path / "e.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"e\.ckpt"):
        convert_taming(tmp_path / "e.ckpt")


_TO_DIFFUSERS = (
    (r"encoder\.down\.(\d)", r"encoder.down_blocks.\1"),
    (r"decoder\.up\.(\d)", lambda found: f"decoder.up_blocks.{1 - int(found[1])}"),
    (r"\.block\.(\d)", r".resnets.\1"),
    (r"\.attn\.(\d)", r".attentions.\1"),
    (r"\.nin_shortcut", ".conv_shortcut"),
    (r"(down|up)sample\.conv", r"\1samplers.0.conv"),
    (r"\.mid\.block_1", ".mid_block.resnets.0"),
    (r"\.mid\.block_2", ".mid_block.resnets.1"),
    (r"\.mid\.attn_1", ".mid_block.attentions.0"),
    (r"(attentions\.\d)\.norm", r"\1.group_norm"),
    (r"(attentions\.\d)\.([qkv])\.", r"\1.to_\2."),
    (r"(attentions\.\d)\.proj_out", r"\1.to_out.0"),
    (r"\.norm_out", ".conv_norm_out"),
)


def test_indices_and_pixels_equal_diffusers_network_with_attention(tmp_path):
    """diffusers' `VQModel` descends from taming-transformers; its blocks are written anew, in PyTorch."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    state = {name: array * 0.1 for name, array in tensors_of(SMALL, "taming").items()}
    model = diffusers.VQModel(
        down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
        block_out_channels=[32, 32],
        latent_channels=4,
        num_vq_embeddings=16,
        vq_embed_dim=6,
        lookup_from_codebook=True,
    ).eval()
    renamed = {}
    for name, array in state.items():
        for pattern, replacement in _TO_DIFFUSERS:
            name = re.sub(pattern, replacement, name)
        linear = ".to_" in name and name.endswith("weight")
        renamed[name] = torch.from_numpy(np.ascontiguousarray(array[:, :, 0, 0] if linear else array))
    model.load_state_dict(renamed)
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), np.uint8)
    pixels = to_unit_range(images)
    with torch.no_grad():
        latents = model.encode(torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)).latents
        indices = model.quantize(latents)[2][2].reshape(2, 8, 8)
        expected = model.decode(indices, force_not_quantize=True, shape=(2, 8, 8, 6)).sample
    converted = convert_taming(write(tmp_path / "last.ckpt", state))
    found = jax.jit(converted.module.encode)(converted.params, pixels)
    np.testing.assert_array_equal(found, indices)
    decoded = np.asarray(jax.jit(converted.module.decode)(converted.params, found))
    expected = expected.permute(0, 2, 3, 1).numpy()
    error = np.abs(decoded - expected).max()
    print(f"VQGAN with attention, pixels: {error:.1e}, the largest value is {np.abs(expected).max():.1f}")
    np.testing.assert_allclose(decoded, expected, atol=1e-4)
