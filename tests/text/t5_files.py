"""Small T5 v1.1 checkpoints in every supported format, and a sentencepiece model trained on the spot."""

import json
from pathlib import Path

import numpy as np
import sentencepiece
from safetensors.numpy import save_file

VOCAB, WIDTH, HEADS, HEAD_DIM, MLP, DEPTH = 128, 64, 4, 16, 96, 3
CONFIG = {
    "feed_forward_proj": "gated-gelu",
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
}


def random_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights under Hugging Face's names, scaled so that attention and biases matter."""
    rng = np.random.default_rng(seed)
    inner = HEADS * HEAD_DIM

    def matrix(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return (rng.normal(size=(rows, columns)) * scale / columns**0.5).astype(np.float32)

    def scale() -> np.ndarray:
        return rng.uniform(0.5, 1.5, WIDTH).astype(np.float32)

    weights = {"shared.weight": rng.normal(size=(VOCAB, WIDTH)).astype(np.float32)}
    for i in range(DEPTH):
        block = f"encoder.block.{i}.layer."
        weights[block + "0.layer_norm.weight"] = scale()
        weights[block + "1.layer_norm.weight"] = scale()
        for name in "qkv":
            weights[f"{block}0.SelfAttention.{name}.weight"] = matrix(
                inner, WIDTH, 0.5 if name == "q" else 1.0
            )
        weights[block + "0.SelfAttention.o.weight"] = matrix(WIDTH, inner)
        weights[block + "1.DenseReluDense.wi_0.weight"] = matrix(MLP, WIDTH)
        weights[block + "1.DenseReluDense.wi_1.weight"] = matrix(MLP, WIDTH)
        weights[block + "1.DenseReluDense.wo.weight"] = matrix(WIDTH, MLP)
    bias = rng.normal(size=(32, HEADS)).astype(np.float32)
    weights["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = bias
    weights["encoder.final_layer_norm.weight"] = scale()
    return weights


def write_sentencepiece(directory: Path) -> Path:
    """Trains a model with T5's special ids: padding 0, </s> 1, unknown 2, no <s>."""
    words = [
        "red heart",
        "blue dog",
        "puppy",
        "a noto emoji of a",
        "green tree",
        "smiling face",
        "cat with tears",
    ]
    sentences = [f"{a} {b} {c}" for a in words for b in words for c in words]
    prefix = directory / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(prefix),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


def write_safetensors(directory: Path, weights: dict[str, np.ndarray], **config: object) -> None:
    save_file(weights, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(CONFIG | config))


def write_shards(directory: Path, weights: dict[str, np.ndarray], shards: int = 3) -> None:
    names = sorted(weights)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[shard::shards]}
        save_file(part, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_t5x(directory: Path, weights: dict[str, np.ndarray], dtype: str = "float32") -> None:
    """Writes t5x's format: chunked zarr arrays with gzip, and the final norm in the msgpack file."""
    import tensorstore
    from flax import serialization

    arrays = {
        "target.token_embedder.embedding": weights["shared.weight"],
        "target.encoder.relpos_bias.rel_embedding": weights[
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ].T,
    }
    for i in range(DEPTH):
        there, here = f"encoder.block.{i}.layer.", f"target.encoder.layers_{i}."
        arrays[here + "pre_attention_layer_norm.scale"] = weights[there + "0.layer_norm.weight"]
        arrays[here + "pre_mlp_layer_norm.scale"] = weights[there + "1.layer_norm.weight"]
        for ours, theirs in {"query": "q", "key": "k", "value": "v", "out": "o"}.items():
            arrays[f"{here}attention.{ours}.kernel"] = weights[f"{there}0.SelfAttention.{theirs}.weight"].T
        for name in ("wi_0", "wi_1", "wo"):
            arrays[f"{here}mlp.{name}.kernel"] = weights[f"{there}1.DenseReluDense.{name}.weight"].T
    for name, array in arrays.items():
        spec = {
            "driver": "zarr",
            "dtype": dtype,
            "kvstore": {"driver": "file", "path": f"{directory / name}/"},
            "metadata": {
                "shape": list(array.shape),
                "chunks": [max(1, size // 2) for size in array.shape],
                "compressor": {"id": "gzip"},
            },
        }
        store = tensorstore.open(spec, create=True).result()
        store.write(np.asarray(array).astype(store.dtype.numpy_dtype)).result()
    norm = {"encoder": {"encoder_norm": {"scale": weights["encoder.final_layer_norm.weight"]}}}
    norm["encoder"]["relpos_bias"] = {"rel_embedding": {"driver": "zarr", "kvstore": {"path": "elsewhere"}}}
    state = {"version": 3, "optimizer": {"target": norm, "state": {"step": np.int32(7)}}}
    (directory / "checkpoint").write_bytes(serialization.msgpack_serialize(state))
