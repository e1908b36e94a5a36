"""Name table of a Hugging Face BertModel, such as MiniLM-L6, for `muse_jax.text.bert.BertEncoder`."""

from muse_jax.interop.name_table import Source

_LAYER = "encoder.layer.{layer}."


def _dense(path: str, name: str) -> dict[str, Source]:
    return {
        f"{path}/kernel": Source(f"{name}.weight", transpose=True),
        f"{path}/bias": Source(f"{name}.bias"),
    }


def _norm(path: str, name: str) -> dict[str, Source]:
    return {f"{path}/scale": Source(f"{name}.weight"), f"{path}/bias": Source(f"{name}.bias")}


MINILM_TABLE: dict[str, Source] = {
    "word_embedding": Source("embeddings.word_embeddings.weight"),
    "position_embedding": Source("embeddings.position_embeddings.weight"),
    "type_embedding": Source("embeddings.token_type_embeddings.weight"),
    **_norm("embedding_norm", "embeddings.LayerNorm"),
    **_dense("layers/query", _LAYER + "attention.self.query"),
    **_dense("layers/key", _LAYER + "attention.self.key"),
    **_dense("layers/value", _LAYER + "attention.self.value"),
    **_dense("layers/out", _LAYER + "attention.output.dense"),
    **_norm("layers/attention_norm", _LAYER + "attention.output.LayerNorm"),
    **_dense("layers/mlp_in", _LAYER + "intermediate.dense"),
    **_dense("layers/mlp_out", _LAYER + "output.dense"),
    **_norm("layers/mlp_norm", _LAYER + "output.LayerNorm"),
}
