"""T5 v1.1 encoder weights from Hugging Face safetensors, also sharded, and from t5x directories."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from muse_jax.interop.name_table import SafetensorsFiles, Source, Tensors

_HF = "encoder.block.{layer}.layer."
_T5X = "target.encoder.layers_{layer}."

T5_HF_TABLE: dict[str, Source] = {
    "token_embedding": Source("shared.weight"),
    "relative_bias": Source("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    "final_norm/scale": Source("encoder.final_layer_norm.weight"),
    "layers/attention_norm/scale": Source(_HF + "0.layer_norm.weight"),
    "layers/attention/query/kernel": Source(_HF + "0.SelfAttention.q.weight", transpose=True),
    "layers/attention/key/kernel": Source(_HF + "0.SelfAttention.k.weight", transpose=True),
    "layers/attention/value/kernel": Source(_HF + "0.SelfAttention.v.weight", transpose=True),
    "layers/attention/out/kernel": Source(_HF + "0.SelfAttention.o.weight", transpose=True),
    "layers/mlp_norm/scale": Source(_HF + "1.layer_norm.weight"),
    "layers/mlp/wi_0/kernel": Source(_HF + "1.DenseReluDense.wi_0.weight", transpose=True),
    "layers/mlp/wi_1/kernel": Source(_HF + "1.DenseReluDense.wi_1.weight", transpose=True),
    "layers/mlp/wo/kernel": Source(_HF + "1.DenseReluDense.wo.weight", transpose=True),
}

T5_T5X_TABLE: dict[str, Source] = {
    "token_embedding": Source("target.token_embedder.embedding"),
    "relative_bias": Source("target.encoder.relpos_bias.rel_embedding", transpose=True),
    "final_norm/scale": Source("target.encoder.encoder_norm.scale"),
    "layers/attention_norm/scale": Source(_T5X + "pre_attention_layer_norm.scale"),
    "layers/attention/query/kernel": Source(_T5X + "attention.query.kernel"),
    "layers/attention/key/kernel": Source(_T5X + "attention.key.kernel"),
    "layers/attention/value/kernel": Source(_T5X + "attention.value.kernel"),
    "layers/attention/out/kernel": Source(_T5X + "attention.out.kernel"),
    "layers/mlp_norm/scale": Source(_T5X + "pre_mlp_layer_norm.scale"),
    "layers/mlp/wi_0/kernel": Source(_T5X + "mlp.wi_0.kernel"),
    "layers/mlp/wi_1/kernel": Source(_T5X + "mlp.wi_1.kernel"),
    "layers/mlp/wo/kernel": Source(_T5X + "mlp.wo.kernel"),
}


class T5xArrays:
    """Arrays of a t5x checkpoint: one zarr directory each, or unpartitioned ones in a msgpack file."""

    def __init__(self, directory: str | Path):
        self._directory = Path(directory)

    @cached_property
    def _small(self) -> dict[str, np.ndarray]:
        from flax import serialization, traverse_util

        file = self._directory / "checkpoint"
        if not file.exists():
            return {}
        state = serialization.msgpack_restore(file.read_bytes())
        flat = traverse_util.flatten_dict(state.get("optimizer", state), sep=".")
        # For an array with a directory of its own, the file has a description in its place.
        return {name: leaf for name, leaf in flat.items() if isinstance(leaf, np.ndarray)}

    def __contains__(self, name: str) -> bool:
        return (self._directory / name / ".zarray").exists() or name in self._small

    def shape(self, name: str) -> tuple[int, ...]:
        header = self._directory / name / ".zarray"
        if header.exists():
            return tuple(json.loads(header.read_text(encoding="utf-8"))["shape"])
        return self._small[name].shape

    def read(self, name: str) -> np.ndarray:
        if not (self._directory / name / ".zarray").exists():
            return self._small[name]
        import tensorstore

        path = str((self._directory / name).resolve()) + "/"
        spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": path}}
        array = np.asarray(tensorstore.open(spec, open=True).result().read().result())
        if array.dtype == np.uint16:
            raise ValueError(
                f"The array {name!r} is uint16, as t5x wrote bfloat16 until 2021; save it with a newer t5x."
            )
        return array


def open_t5(directory: str | Path) -> tuple[Tensors, Mapping[str, Source], dict[str, Any]]:
    """Opens a directory of T5 v1.1 weights.

    Args:
      directory: in Hugging Face's layout (`model.safetensors` or its shards and index, and `config.json`) or
        t5x's (a directory `target.NAME` per array).

    Returns:
      The tensors, the name table of their layout, and the settings that do not follow from shapes.

    Raises:
      ValueError: the directory has neither layout, or its weights are not T5 v1.1.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ValueError(
            f"The directory {directory} does not exist; give 't5:DIR' with a directory of T5 v1.1 weights."
        )
    if (directory / "model.safetensors").exists() or (directory / "model.safetensors.index.json").exists():
        tensors = SafetensorsFiles.in_directory(directory)
        table = dict(T5_HF_TABLE)
        if "shared.weight" not in tensors:
            table["token_embedding"] = Source("encoder.embed_tokens.weight")
        return tensors, table, _rest_of_config(directory / "config.json")
    if any(directory.glob("target.*")):
        return T5xArrays(directory), T5_T5X_TABLE, {}
    raise ValueError(
        f"The directory {directory} contains no T5 weights; it needs model.safetensors (or its shards and "
        "model.safetensors.index.json), or the target.* directories of a t5x checkpoint."
    )


def _rest_of_config(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    config = json.loads(file.read_text(encoding="utf-8"))
    kind = config.get("feed_forward_proj", "relu")
    if kind != "gated-gelu":
        raise ValueError(
            f"The T5 in {file.parent} has feed_forward_proj {kind!r}; only v1.1's 'gated-gelu' is supported."
        )
    names = {"max_distance": "relative_attention_max_distance", "epsilon": "layer_norm_epsilon"}
    return {ours: config[theirs] for ours, theirs in names.items() if theirs in config}
