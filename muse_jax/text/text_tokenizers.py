"""Text tokenizers of the frozen encoders: texts to arrays of ids, cut or padded to one length."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


def fit_to_length(
    texts: Sequence[str], sequences: Sequence[Sequence[int]], max_length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pads or cuts each sequence to `max_length`; a cut sequence keeps its last token, the end of text.

    Returns:
      ids int32 and mask bool, True on real tokens, both (batch, max_length). If texts were cut, one warning
      quotes the first of them.
    """
    ids = np.full((len(sequences), max_length), pad_id, np.int32)
    mask = np.zeros((len(sequences), max_length), bool)
    cut = []
    for row, sequence in enumerate(sequences):
        if len(sequence) > max_length:
            cut.append(row)
            sequence = [*sequence[: max_length - 1], sequence[-1]]
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = True
    if cut:
        text = texts[cut[0]]
        shown = text if len(text) <= 80 else text[:77] + "..."
        others = f" ({len(cut) - 1} more were cut too)" if len(cut) > 1 else ""
        warnings.warn(
            f"The prompt {shown!r} has {len(sequences[cut[0]])} tokens and was cut to {max_length}{others}; "
            "shorten it or load the text encoder with a larger max_length.",
            stacklevel=4,
        )
    return ids, mask


def check_texts(texts: Any) -> list[str]:
    """The texts as a list of str.

    Raises:
      ValueError: if they are not a sequence of strings.
    """
    if isinstance(texts, str | bytes):
        raise ValueError(
            f"Texts must be a list of strings, given one {type(texts).__name__}; write [{texts!r}]."
        )
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"Every text must be a str, but number {index} is {text!r} of type {type(text).__name__}."
            )
    return [str(text) for text in texts]  # converts numpy strings


def read_sentencepiece(file: str | Path) -> Any:
    """The `SentencePieceProcessor` of a model file.

    Raises:
      ValueError: the file is not a sentencepiece model.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"The file {file} is not a sentencepiece model; fetch or train it again.") from error


@dataclass(frozen=True, eq=False)
class JSONTokenizer:
    """Tokenizer of the `tokenizers` library, with the special tokens that its `tokenizer.json` adds."""

    file_name: ClassVar[str] = "tokenizer.json"
    tokenizer: Any
    pad_id: int = 0

    @classmethod
    def from_file(cls, path: str | Path, pad_id: int = 0) -> "JSONTokenizer":
        """Reads a `tokenizer.json`."""
        from tokenizers import Tokenizer

        return cls.wrap(Tokenizer.from_file(str(path)), pad_id)

    @classmethod
    def wrap(cls, tokenizer: Any, pad_id: int) -> "JSONTokenizer":
        """Takes a `tokenizers.Tokenizer`, whose padding and truncation are turned off."""
        # `fit_to_length` pads and cuts instead of the file's own settings.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(tokenizer, pad_id)

    def __call__(self, texts: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray]:
        texts = check_texts(texts)
        sequences = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        return fit_to_length(texts, sequences, max_length, self.pad_id)

    def serialize(self) -> bytes:
        """Content of the tokenizer's file."""
        return str(self.tokenizer.to_str()).encode()


@dataclass(frozen=True, eq=False)
class SentencePieceTokenizer:
    """Sentencepiece tokenizer of T5: the pieces, then `</s>`, then padding with id 0."""

    file_name: ClassVar[str] = "spiece.model"
    processor: Any
    pad_id: int = 0

    @classmethod
    def from_directory(cls, directory: str | Path, vocab_size: int) -> "SentencePieceTokenizer":
        """Reads `spiece.model` (or t5x's `sentencepiece.model`).

        Raises:
          ValueError: if there is no such file, or it does not fit `vocab_size` embeddings.
        """
        files = [Path(directory) / name for name in ("spiece.model", "sentencepiece.model")]
        file = next((file for file in files if file.exists()), None)
        if file is None:
            raise ValueError(
                f"The directory {directory} has no spiece.model; put T5's sentencepiece model there."
            )
        processor = read_sentencepiece(file)
        if processor.eos_id() < 0 or processor.vocab_size() > vocab_size:
            raise ValueError(
                f"The sentencepiece model {file} has {processor.vocab_size()} pieces and </s> at "
                f"{processor.eos_id()}; a T5 with {vocab_size} embeddings needs no more pieces and an </s>."
            )
        return cls(processor)

    def __call__(self, texts: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray]:
        texts = check_texts(texts)
        end = [self.processor.eos_id()]
        sequences = [pieces + end for pieces in self.processor.encode(texts, out_type=int)]
        return fit_to_length(texts, sequences, max_length, self.pad_id)

    def serialize(self) -> bytes:
        """Content of the model's file."""
        return bytes(self.processor.serialized_model_proto())
