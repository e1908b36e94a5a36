"""aMUSEd's published checkpoints, in diffusers' layout: transformer, VQModel, text encoder and tokenizer."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from muse_jax.interop.clip import load_clip_text_model, read_clip_tokenizer
from muse_jax.interop.name_table import SafetensorsFiles, StrictTensors, Tensors
from muse_jax.nn.shapes import parameter_shapes
from muse_jax.systems.amused.pipeline import AmusedPipeline
from muse_jax.systems.amused.sampling import AmusedSampling
from muse_jax.systems.amused.text import PromptEncoder
from muse_jax.systems.amused.uvit import UVit2D
from muse_jax.systems.base import LoadedStage
from muse_jax.text.text_tokenizers import JSONTokenizer
from muse_jax.tokenizers import TamingVQGAN
from muse_jax.tokenizers.published import read_vqgan

_WEIGHTS = "diffusion_pytorch_model"

_Turn = Callable[[Sequence[np.ndarray], tuple[int, ...]], np.ndarray]


def _as_is(arrays: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return arrays[0].reshape(shape)


def _matrices(arrays: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Matrices (out, in), or 1x1 convolutions, side by side: (in, all outs)."""
    flat = [a.reshape(a.shape[0], -1).T for a in arrays]
    return np.concatenate(flat, -1).reshape(shape)


def _depthwise(arrays: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return arrays[0].transpose(2, 3, 1, 0).reshape(shape)


def _stride_conv(arrays: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """A 2x2 convolution of stride 2, (out, in, 2, 2), as a matrix from the folded square's channels."""
    return arrays[0].transpose(2, 3, 1, 0).reshape(shape)


def _transposed_conv(arrays: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return arrays[0].transpose(0, 2, 3, 1).reshape(shape)


class Parts(NamedTuple):
    """The foreign tensors that one parameter is made of (`{layer}` where they repeat), and how."""

    names: tuple[str, ...]
    turn: _Turn = _as_is


def _dense(path: str, *names: str) -> dict[str, Parts]:
    return {f"{path}/kernel": Parts(tuple(f"{name}.weight" for name in names), _matrices)}


def _norm(path: str, name: str) -> dict[str, Parts]:
    return {f"{path}/scale": Parts((f"{name}.weight",))}


def _conv_stack(path: str) -> dict[str, Parts]:
    conv, attention = f"{path}_block.res_blocks.{{layer}}.", f"{path}_block.attention_blocks.{{layer}}."
    table = {
        f"{path}/depthwise": Parts((conv + "depthwise.weight",), _depthwise),
        f"{path}/response_gain": Parts((conv + "channelwise_norm.gamma",)),
        f"{path}/response_bias": Parts((conv + "channelwise_norm.beta",)),
        **_norm(f"{path}/conv_norm", conv + "norm"),
        **_dense(f"{path}/mlp_in", conv + "channelwise_linear_1"),
        **_dense(f"{path}/mlp_out", conv + "channelwise_linear_2"),
        **_dense(f"{path}_conditioner/mapper", conv + "cond_embeds_mapper"),
        **_dense(f"{path}_conditioner/text_mapper", attention + "kv_mapper"),
    }
    for i in "12":
        there = f"{attention}attn{i}."
        table |= {
            **_norm(f"{path}/norm{i}", f"{attention}norm{i}"),
            **_dense(f"{path}/attention{i}/query", there + "to_q"),
            **_dense(f"{path}/attention{i}/out", there + "to_out.0"),
            **_dense(f"{path}_conditioner/text{i}/key_value", there + "to_k", there + "to_v"),
        }
    return table


def _layers() -> dict[str, Parts]:
    there = "transformer_layers.{layer}."
    table = {
        **_dense("layers/attention/query_key_value", *(f"{there}attn1.to_{part}" for part in "qkv")),
        **_dense("layers/attention/out", there + "attn1.to_out.0"),
        **_dense("layers/cross_attention/query", there + "attn2.to_q"),
        **_dense("layers/cross_attention/out", there + "attn2.to_out.0"),
        **_dense("layers_conditioner/text/key_value", there + "attn2.to_k", there + "attn2.to_v"),
        **_dense("layers/mlp_in", there + "ff.net.0.proj"),
        **_dense("layers/mlp_out", there + "ff.net.2"),
    }
    for i in "123":
        table |= _dense(f"layers_conditioner/norm{i}/mapper", f"{there}norm{i}.linear")
        table |= _norm(f"layers_conditioner/norm{i}", f"{there}norm{i}.norm")
    return table


AMUSED_TABLE: dict[str, Parts] = {
    **_dense("text_proj", "encoder_proj"),
    **_norm("text_norm", "encoder_proj_layer_norm"),
    **_dense("condition_in", "cond_embed.linear_1"),
    **_dense("condition_out", "cond_embed.linear_2"),
    "embedding": Parts(("embed.embeddings.weight",)),
    **_norm("embedding_norm", "embed.layer_norm"),
    **_dense("embedding_proj", "embed.conv"),
    **_conv_stack("down"),
    **_norm("to_hidden_norm", "project_to_hidden_norm"),
    **_dense("to_hidden", "project_to_hidden"),
    **_layers(),
    **_norm("from_hidden_norm", "project_from_hidden_norm"),
    **_dense("from_hidden", "project_from_hidden"),
    **_conv_stack("up"),
    **_norm("downsample_norm", "down_block.downsample.norm"),
    "downsample/kernel": Parts(("down_block.downsample.conv.weight",), _stride_conv),
    **_norm("upsample_norm", "up_block.upsample.norm"),
    "upsample/kernel": Parts(("up_block.upsample.conv.weight",), _transposed_conv),
    **_dense("head_proj", "mlm_layer.conv1"),
    **_norm("head_norm", "mlm_layer.layer_norm"),
    **_dense("head", "mlm_layer.conv2"),
}

_STACKS = ("down", "up", "layers")


def read_uvit(
    tensors: Tensors,
    network: UVit2D,
    dtype: Any = jnp.float32,
    place: Callable[[str, np.ndarray], Any] = lambda _, array: array,
) -> dict[str, Any]:
    """Parameters of `network` from the tensors of a diffusers `UVit2DModel`.

    One leaf is read at a time; `place(path, array)` puts it where it lives, by default as a numpy array.

    Raises:
      ValueError: one sentence, for a tensor that is missing or has another shape.
    """
    leaves = {}
    for path, leaf in traverse_util.flatten_dict(parameter_shapes(network), sep="/").items():
        leaves[path] = place(path, _read_leaf(tensors, path, tuple(leaf.shape), np.dtype(dtype)))
    return traverse_util.unflatten_dict(leaves, sep="/")


def _read_leaf(tensors: Tensors, path: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    parts = AMUSED_TABLE[path]
    if path.split("/")[0].removesuffix("_conditioner") not in _STACKS:
        return _read_parts(tensors, parts, parts.names, shape, path).astype(dtype)
    stacked = np.empty(shape, dtype)
    for layer in range(shape[0]):
        names = tuple(name.format(layer=layer) for name in parts.names)
        stacked[layer] = _read_parts(tensors, parts, names, shape[1:], path)
    return stacked


def _read_parts(
    tensors: Tensors, parts: Parts, names: Sequence[str], shape: tuple[int, ...], path: str
) -> np.ndarray:
    for name in names:
        if name not in tensors:
            raise ValueError(
                f"The checkpoint has no tensor {name!r}, from which {path!r} is read; is it aMUSEd's?"
            )
    arrays = [tensors.read(name) for name in names]
    inputs = [math.prod(array.shape[1:]) for array in arrays if parts.turn is _matrices]
    if sum(array.size for array in arrays) != math.prod(shape) or any(n != shape[0] for n in inputs):
        raise ValueError(
            f"The tensors {list(names)} have shapes {[a.shape for a in arrays]} where {path!r} needs "
            f"{shape}; the checkpoint is of another size."
        )
    return parts.turn(arrays, shape)


def network_from_config(
    config: Mapping[str, Any], grid: tuple[int, int] | None = None, **fields: Any
) -> UVit2D:
    """The network that a diffusers `config.json` describes; `grid` is its `sample_size` unless given."""
    if config.get("use_bias") or not config.get("ln_elementwise_affine", True):
        raise ValueError(
            "Only aMUSEd networks without biases and with scaled norms (its published form) are read."
        )
    if bool(config["downsample"]) != bool(config["upsample"]):
        raise ValueError("downsample and upsample must be both on or both off.")
    side = config["sample_size"]
    return UVit2D(
        vocab_size=config["vocab_size"],
        codebook_size=config["codebook_size"],
        grid=grid or (side, side),
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_dim=config["intermediate_size"],
        channels=config["block_out_channels"],
        conv_blocks=config["num_res_blocks"],
        conv_heads=config["block_num_heads"],
        embed_dim=config["in_channels"],
        text_dim=config["encoder_hidden_size"],
        pooled_dim=config["cond_embed_dim"],
        micro_dim=config["micro_cond_encode_dim"],
        num_micro=config["micro_cond_embed_dim"] // config["micro_cond_encode_dim"],
        resample=bool(config["downsample"]),
        **fields,
    )


def load_uvit(directory: str | Path) -> tuple[UVit2D, dict[str, Any]]:
    """Network and float32 parameters of aMUSEd's `transformer` directory, as diffusers saves it.

    Raises:
      ValueError: one sentence, for a file that is missing, damaged or of another model.
    """
    network = network_from_config(_read_config(Path(directory), "UVit2DModel"))
    tensors = StrictTensors(SafetensorsFiles.in_directory(directory, _WEIGHTS), directory)
    params = read_uvit(tensors, network)
    tensors.refuse_surplus()
    return network, params


def load_vqmodel(directory: str | Path) -> tuple[TamingVQGAN, dict[str, Any]]:
    """Tokenizer and float32 parameters of aMUSEd's `vqvae` directory, as diffusers saves it.

    Raises:
      ValueError: one sentence, for a file that is missing, damaged or of another model.
    """
    config = _read_config(Path(directory), "VQModel")
    if config.get("norm_type", "group") != "group" or not config.get("lookup_from_codebook"):
        raise ValueError(
            f"Only a VQModel with group norms that looks codes up (aMUSEd's form) is read, not {directory}."
        )
    tensors = StrictTensors(SafetensorsFiles.in_directory(directory, _WEIGHTS), directory)
    groups = config.get("norm_num_groups", 32)
    tokenizer, params = read_vqgan(tensors, "diffusers", black=0.0, norm_groups=groups)
    tensors.refuse_surplus()
    return tokenizer, params


def convert_amused(path: str | Path) -> AmusedPipeline:
    """The pipeline of a directory that diffusers' `AmusedPipeline.save_pretrained` wrote, or a published one.

    Args:
      path: a directory with `transformer`, `vqvae`, `text_encoder` and `tokenizer`; safetensors only.

    Raises:
      ValueError: one sentence, for a file that is missing, damaged or of another model.
    """
    path = Path(path)
    _read_config(path, "AmusedPipeline", "model_index.json")
    _read_config(path / "scheduler", "AmusedScheduler", "scheduler_config.json")
    network, params = load_uvit(path / "transformer")
    tokenizer, tokenizer_params = load_vqmodel(path / "vqvae")
    text, text_params = load_clip_text_model(path / "text_encoder")
    words, pad_id = read_clip_tokenizer(path / "tokenizer")
    encoder = PromptEncoder(text, text_params, JSONTokenizer.wrap(words, pad_id))
    stage = LoadedStage(network, params, AmusedSampling(), tokenizer, tokenizer_params)
    return AmusedPipeline(prompt_encoder=encoder, transformer=stage)


def _read_config(directory: Path, kind: str, name: str = "config.json") -> dict[str, Any]:
    file = directory / name
    if not file.is_file():
        raise ValueError(f"There is no {file}: give aMUSEd's directory, as diffusers saves it.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        found = config["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not one of diffusers' ({error!r}): fetch it again.") from error
    if found != kind:
        raise ValueError(f"{file} is of a {found}, not of a {kind}: give aMUSEd's directory.")
    return config
