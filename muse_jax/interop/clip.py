"""CLIP from Hugging Face's files: config.json, model.safetensors and tokenizer.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from muse_jax.interop.name_table import SafetensorsFiles, Source, StrictTensors, read_table
from muse_jax.nn.clip import ACTIVATIONS, CLIPText, CLIPVision
from muse_jax.nn.shapes import abstract_params, parameter_shapes

_LAYER = {
    "attention_norm": "layer_norm1",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "mlp_norm": "layer_norm2",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
}


def _table(tower: str, parts: Mapping[str, Source], norms: Mapping[str, str]) -> dict[str, Source]:
    table = dict(parts)
    for ours, theirs in norms.items():
        table |= {f"{ours}/scale": Source(f"{theirs}.weight"), f"{ours}/bias": Source(f"{theirs}.bias")}
    for ours, theirs in _LAYER.items():
        name = f"{tower}.encoder.layers.{{layer}}.{theirs}"
        kernel = "scale" if ours.endswith("norm") else "kernel"
        path = f"transformer/layers/{ours}"
        table[f"{path}/{kernel}"] = Source(f"{name}.weight", transpose=kernel == "kernel")
        table[f"{path}/bias"] = Source(f"{name}.bias")
    return table


VISION_TABLE = _table(
    "vision_model",
    {
        "patches/kernel": Source("vision_model.embeddings.patch_embedding.weight"),
        "class_token": Source("vision_model.embeddings.class_embedding"),
        "positions": Source("vision_model.embeddings.position_embedding.weight"),
        "projection/kernel": Source("visual_projection.weight", transpose=True),
    },
    {"input_norm": "vision_model.pre_layrnorm", "output_norm": "vision_model.post_layernorm"},
)
TEXT_TABLE = _table(
    "text_model",
    {
        "words": Source("text_model.embeddings.token_embedding.weight"),
        "positions": Source("text_model.embeddings.position_embedding.weight"),
        "projection/kernel": Source("text_projection.weight", transpose=True),
    },
    {"output_norm": "text_model.final_layer_norm"},
)


class _Tensors:
    """Transposes the patch kernel to the axes of Flax; other tensors do not change."""

    def __init__(self, files: SafetensorsFiles):
        self._files = files

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def shape(self, name: str) -> tuple[int, ...]:
        return self.read(name).shape

    def read(self, name: str) -> np.ndarray:
        tensor = self._files.read(name)
        return tensor.transpose(2, 3, 1, 0) if name.endswith("patch_embedding.weight") else tensor


def load_clip_vision(folder: str | Path) -> tuple[CLIPVision, dict[str, Any]]:
    """Loads the image encoder of the CLIP in `folder` and its float32 params.

    Raises:
      ValueError: files are missing, damaged, or belong to another model.
    """
    config = _read_config(folder)
    vision = config["vision_config"]
    fields = {"patch": vision["patch_size"], "image_size": vision["image_size"]}
    module = CLIPVision(**_fields(vision, config), **fields)
    image = jnp.zeros((1, module.image_size, module.image_size, 3))
    return module, _read(folder, VISION_TABLE, abstract_params(module, image))


def load_clip_text(folder: str | Path) -> tuple[CLIPText, dict[str, Any]]:
    """Loads the text encoder of the CLIP in `folder` and its float32 params.

    Raises:
      ValueError: files are missing, damaged, or belong to another model.
    """
    config = _read_config(folder)
    text = config["text_config"]
    fields = {"vocab_size": text["vocab_size"], "max_positions": text["max_position_embeddings"]}
    module = CLIPText(**_fields(text, config), **fields)
    return module, _read(folder, TEXT_TABLE, parameter_shapes(module))


def load_clip_text_model(folder: str | Path) -> tuple[CLIPText, dict[str, Any]]:
    """Module and float32 params of a `CLIPTextModelWithProjection`, the text encoder of diffusers' pipelines.

    Raises:
      ValueError: files are missing, damaged, or belong to another model.
    """
    file = Path(folder) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        fields = {
            "vocab_size": config["vocab_size"],
            "max_positions": config["max_position_embeddings"],
            **_fields(config, config),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not the config of a CLIP text encoder: {error}.") from error
    _check_activations(file, config)
    module = CLIPText(**fields)
    tensors = StrictTensors(SafetensorsFiles.in_directory(folder), folder)
    params = read_table(tensors, TEXT_TABLE, parameter_shapes(module), place=lambda _, array: array)
    tensors.refuse_surplus(["text_model.embeddings.position_ids"])
    return module, params


def read_clip_tokenizer(folder: str | Path) -> tuple[Tokenizer, int]:
    """CLIP's tokenizer and its padding id, from tokenizer.json, or from vocab.json and merges.txt.

    Raises:
      ValueError: files are missing or damaged.
    """
    folder = Path(folder)
    try:
        if (folder / "tokenizer.json").is_file():
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            tokenizer = _byte_pair_tokenizer(folder)
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        padding = settings.get("pad_token", "<|endoftext|>")
        text = padding["content"] if isinstance(padding, Mapping) else padding
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ValueError(
            f"{folder} has no readable CLIP tokenizer ({error}): put tokenizer_config.json there, and "
            "tokenizer.json, or vocab.json and merges.txt."
        ) from error
    if (pad_id := tokenizer.token_to_id(text)) is None:
        raise ValueError(f"The padding token {text!r} of {folder} is not in its vocabulary.")
    tokenizer.add_special_tokens([text])  # as transformers does: it is found in texts before all else
    return tokenizer, pad_id


_PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def _byte_pair_tokenizer(folder: Path) -> Tokenizer:
    """Lower case, words, bytes, pairs of bytes: the steps of CLIP's tokenizer (Radford et al. 2021)."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    model = models.BPE.from_file(
        str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token=end, end_of_word_suffix="</w>"
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([start, end])
    ids: dict[str, Any] = {text: tokenizer.token_to_id(text) for text in (start, end)}
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, ids[end]), (start, ids[start]), trim_offsets=False, add_prefix_space=False
    )
    return tokenizer


def load_clip_tokenizer(folder: str | Path) -> "CLIPTokenizer":
    """Loads the tokenizer of the CLIP in `folder`.

    Raises:
      ValueError: there is no tokenizer.json.
    """
    file = Path(folder) / "tokenizer.json"
    if not file.is_file():
        raise ValueError(f"There is no {file}: put CLIP's tokenizer.json there.")
    length = _read_config(folder)["text_config"]["max_position_embeddings"]
    return CLIPTokenizer(Tokenizer.from_file(str(file)), length)


class CLIPTokenizer:
    """Texts to token ids; a text that is too long is cut before its end token."""

    def __init__(self, tokenizer: Tokenizer, max_length: int):
        self._tokenizer, self._max_length = tokenizer, max_length
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)

    def __call__(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "b n"], Int[np.ndarray, " b"]]:
        """Ids padded with the end token, and the position of each text's end token."""
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        ids = np.array([row + row[-1:] * (self._max_length - len(row)) for row in rows], np.int32)
        return ids, np.array([len(row) - 1 for row in rows], np.int32)


def _read_config(folder: str | Path) -> dict[str, Any]:
    file = Path(folder) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        parts = config["vision_config"], config["text_config"]
        for part in parts:
            _fields(part, config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not the config of a CLIP: {error}.") from error
    _check_activations(file, *parts)
    return config


def _check_activations(file: Path, *parts: Mapping[str, Any]) -> None:
    if unknown := {part.get("hidden_act", "quick_gelu") for part in parts} - set(ACTIVATIONS):
        raise ValueError(f"{file} has hidden_act {unknown.pop()!r}: only {', '.join(ACTIVATIONS)} are known.")


def _fields(part: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "width": part["hidden_size"],
        "depth": part["num_hidden_layers"],
        "heads": part["num_attention_heads"],
        "mlp_dim": part["intermediate_size"],
        "activation": part.get("hidden_act", "quick_gelu"),
        "projection": config["projection_dim"],
    }


def _read(folder: str | Path, table: Mapping[str, Source], shapes: dict[str, Any]) -> dict[str, Any]:
    tensors = _Tensors(SafetensorsFiles.in_directory(folder))
    return read_table(tensors, table, shapes, place=lambda _, array: array)
