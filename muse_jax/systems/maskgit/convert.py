"""MaskGIT's released checkpoints: Flax's msgpack files of a tokenizer and of a transformer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization, traverse_util

from muse_jax.interop.name_table import Source, StrictTensors, read_table
from muse_jax.nn.shapes import parameter_shapes
from muse_jax.systems.base import LoadedStage
from muse_jax.systems.maskgit.pipeline import MaskGITPipeline, MaskGITSampling
from muse_jax.systems.maskgit.tokenizer import MaskGITVQGAN
from muse_jax.systems.maskgit.transformer import ClassTransformer

_LAYER = "TransformerLayer_{layer}"
_ATTENTION = f"{_LAYER}/Attention_0/self_attention"


def _dense(path: str, name: str) -> dict[str, Source]:
    return {f"{path}/{leaf}": Source(f"{name}/{leaf}") for leaf in ("kernel", "bias")}


def _norm(path: str, name: str) -> dict[str, Source]:
    return {f"{path}/{leaf}": Source(f"{name}/{leaf}") for leaf in ("scale", "bias")}


TRANSFORMER_TABLE: dict[str, Source] = {
    "embedding": Source("Embed_0/word_embeddings/embedding"),
    "positions": Source("Embed_0/position_embeddings/embedding"),
    **_norm("input_norm", "Embed_0/embeddings_ln"),
    **_dense("layers/query", f"{_ATTENTION}/query"),
    **_dense("layers/key", f"{_ATTENTION}/key"),
    **_dense("layers/value", f"{_ATTENTION}/value"),
    **_dense("layers/out", f"{_ATTENTION}/out"),
    **_norm("layers/attention_norm", f"{_LAYER}/Attention_0/attention_output_ln"),
    **_dense("layers/mlp_in", f"{_LAYER}/Mlp_0/intermediate_output"),
    **_dense("layers/mlp_out", f"{_LAYER}/Mlp_0/layer_output"),
    **_norm("layers/mlp_norm", f"{_LAYER}/Mlp_0/layer_output_ln"),
    **_dense("head", "MlmLayer_0/mlm_dense"),
    **_norm("head_norm", "MlmLayer_0/mlm_ln"),
    "bias": Source("MlmLayer_0/mlm_bias/bias"),
}


def convert_maskgit(path: str | Path) -> MaskGITPipeline:
    """The pipeline of a directory with the released files.

    Args:
      path: a directory with one `maskgit_imagenetN_checkpoint` and one `tokenizer_imagenetN_checkpoint`.

    Raises:
      ValueError: one sentence, for a file that is missing, damaged or of another model.
    """
    tokenizer, tokenizer_params = read_tokenizer(_open(_find(path, "tokenizer")))
    network, params = read_transformer(_open(_find(path, "maskgit")), tokenizer.codebook_size)
    stage = LoadedStage(network, params, MaskGITSampling(), tokenizer, tokenizer_params)
    return MaskGITPipeline(transformer=stage)


def read_tokenizer(tensors: StrictTensors) -> tuple[MaskGITVQGAN, dict[str, Any]]:
    """The tokenizer, its sizes from the shapes of the tensors: names are those of our modules.

    Raises:
      ValueError: one sentence, for a tensor that is missing, left over or of another shape.
    """
    widths: list[int] = []
    while f"encoder/ResBlock_{len(widths)}/Conv_0/kernel" in tensors:
        widths.append(tensors.shape(f"encoder/ResBlock_{len(widths)}/Conv_0/kernel")[-1])
    filters = tensors.shape("encoder/Conv_0/kernel")[-1]
    levels = sum(f"decoder/Conv_{i}/kernel" in tensors for i in range(1, 16))
    blocks = len(widths) // (levels + 1)
    codes, embed_dim = tensors.shape("quantizer/codebook")
    multipliers = tuple(widths[level * blocks] // filters for level in range(levels))
    module = MaskGITVQGAN(filters, multipliers, blocks, codes, embed_dim)
    shapes = parameter_shapes(module)
    table = {name: Source(name) for name in traverse_util.flatten_dict(shapes, sep="/")}
    params = read_table(tensors, table, shapes, place=lambda _, array: array)
    tensors.refuse_surplus()
    return module, params


def read_transformer(tensors: StrictTensors, codes: int) -> tuple[ClassTransformer, dict[str, Any]]:
    """The transformer over so many codes, its other sizes from the shapes of the tensors.

    Raises:
      ValueError: one sentence, for a tensor that is missing, left over or of another shape.
    """
    rows, width = tensors.shape("Embed_0/word_embeddings/embedding")
    side = round((tensors.shape("Embed_0/position_embeddings/embedding")[0] - 1) ** 0.5)
    depth = 0
    while f"TransformerLayer_{depth}/Mlp_0/layer_output/kernel" in tensors:
        depth += 1
    first = "TransformerLayer_0"
    module = ClassTransformer(
        vocab_size=codes,
        num_classes=rows - codes - 1,
        grid=(side, side),
        width=width,
        depth=depth,
        heads=tensors.shape(f"{first}/Attention_0/self_attention/query/kernel")[1],
        mlp_dim=tensors.shape(f"{first}/Mlp_0/intermediate_output/kernel")[-1],
    )
    shapes = parameter_shapes(module)
    params = read_table(tensors, TRANSFORMER_TABLE, shapes, place=lambda _, array: array)
    tensors.refuse_surplus()
    return module, params


def _find(path: str | Path, kind: str) -> Path:
    found = sorted(Path(path).glob(f"{kind}_imagenet*_checkpoint"))
    if len(found) != 1:
        raise ValueError(
            f"{path} has {len(found)} files {kind}_imagenet*_checkpoint: give a directory with one tokenizer "
            "and one transformer of MaskGIT, of the same resolution."
        )
    return found[0]


def _open(file: Path) -> StrictTensors:
    """The parameters of a msgpack file; msgpack holds data only, so that nothing is executed."""
    try:
        tree = serialization.msgpack_restore(file.read_bytes())
    except Exception as error:  # msgpack raises errors of many types
        raise ValueError(f"{file} is not a complete checkpoint of Flax ({error}): fetch it again.") from error
    tree = tree.get("params", tree) if isinstance(tree, Mapping) else {}
    flat = traverse_util.flatten_dict(tree, sep="/") if isinstance(tree, Mapping) else {}
    return StrictTensors({name: leaf for name, leaf in flat.items() if isinstance(leaf, np.ndarray)}, file)
