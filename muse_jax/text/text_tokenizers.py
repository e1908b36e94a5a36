"""Text into token ids, on the host: one call makes rectangular arrays, cut or padded to `max_length`."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


def fit_to_length(
    texts: Sequence[str], sequences: Sequence[Sequence[int]], max_length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pads or cuts each sequence to `max_length`; a cut one keeps its last token, which ends every text.

    Returns ids int32 and mask bool (true on real tokens), both (batch, max_length). Warns once, naming the
    first text that was cut.
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
    """The texts as a list; ValueError where they are not a sequence of strings."""
    if isinstance(texts, str | bytes):
        raise ValueError(
            f"A list of strings is wanted, but one {type(texts).__name__} was given; write [{texts!r}]."
        )
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"Every text must be a str, but number {index} is {text!r} of type {type(text).__name__}."
            )
    return [str(text) for text in texts]  # numpy strings become plain ones


@dataclass(frozen=True, eq=False)
class WordPieceTokenizer:
    """A `tokenizer.json` of the `tokenizers` library: [CLS] words [SEP]."""

    tokenizer: Any
    pad_id: int = 0

    @classmethod
    def from_file(cls, path: str | Path) -> "WordPieceTokenizer":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(path))
        # Shapes are this library's business: the file's own padding and truncation are switched off.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(tokenizer)

    def __call__(self, texts: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray]:
        texts = check_texts(texts)
        sequences = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        return fit_to_length(texts, sequences, max_length, self.pad_id)

    def serialize(self) -> bytes:
        """The tokenizer as a file would hold it."""
        return str(self.tokenizer.to_str()).encode()


@dataclass(frozen=True, eq=False)
class SentencePieceTokenizer:
    """A sentencepiece model with T5's convention: the pieces, then `</s>`, then padding of id 0."""

    processor: Any
    pad_id: int = 0

    @classmethod
    def from_directory(cls, directory: str | Path, vocab_size: int) -> "SentencePieceTokenizer":
        """Reads `spiece.model` (or t5x's `sentencepiece.model`); its pieces must fit the embeddings."""
        from sentencepiece import SentencePieceProcessor

        files = [Path(directory) / name for name in ("spiece.model", "sentencepiece.model")]
        file = next((file for file in files if file.exists()), None)
        if file is None:
            raise ValueError(
                f"The directory {directory} holds no spiece.model; put T5's sentencepiece model there."
            )
        try:
            processor = SentencePieceProcessor(model_file=str(file))
        except (OSError, RuntimeError) as error:
            raise ValueError(f"The file {file} is not a sentencepiece model; fetch it again.") from error
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
        """The model as a file would hold it."""
        return bytes(self.processor.serialized_model_proto())
