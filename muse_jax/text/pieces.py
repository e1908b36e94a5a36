"""Sentencepiece models for networks that generate text as well as read it.

Any sentencepiece model works: a published one, or one that `experiments.train_text_pieces` trained on the
captions of a data set. No special tokens are added; the network marks the start and end of a text.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from muse_jax.text.text_tokenizers import check_texts, read_sentencepiece


@dataclass(frozen=True, eq=False)
class TextPieces:
    """Sentencepiece model for texts of at most `max_length` pieces."""

    processor: Any
    max_length: int

    @classmethod
    def from_file(cls, file: str | Path, max_length: int) -> "TextPieces":
        """Reads a model file.

        Raises:
          ValueError: if the file is missing or is not a sentencepiece model.
        """
        if not Path(file).is_file():
            raise ValueError(
                f"There is no sentencepiece model {str(file)!r}: train one with "
                "experiments.train_text_pieces, or give the file of a published one."
            )
        return cls(read_sentencepiece(file), max_length)

    @classmethod
    def untrained(cls, max_length: int) -> "TextPieces":
        """A model without pieces, which encodes nothing, to compile programs before it is trained."""
        return cls(None, max_length)

    def serialize(self) -> bytes:
        """Content of the model's file."""
        return bytes(self.processor.serialized_model_proto())

    def __len__(self) -> int:
        """Number of pieces in the vocabulary."""
        return int(self.processor.vocab_size()) if self.processor else 0

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes texts.

        Returns:
          ids int32, with padding 0, and mask bool, True on pieces, both (batch, max_length).

        Raises:
          ValueError: if `texts` is not a sequence of strings, or a text has more than `max_length` pieces.
        """
        texts = check_texts(texts)
        sequences = self.processor.encode(texts, out_type=int)
        for text, pieces in zip(texts, sequences, strict=True):
            if len(pieces) > self.max_length:
                shown = text if len(text) <= 80 else text[:77] + "..."
                raise ValueError(
                    f"The text {shown!r} has {len(pieces)} pieces, but the network reads at most "
                    f"{self.max_length}: shorten it."
                )
        return self._fill(sequences)

    def encode_cut(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """`encode` that cuts texts that are too long, for the captions of a data set."""
        return self._fill(self.processor.encode(check_texts(texts), out_type=int))

    def _fill(self, sequences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        ids = np.zeros((len(sequences), self.max_length), np.int32)
        mask = np.zeros(ids.shape, bool)
        for row, pieces in enumerate(sequences):
            pieces = pieces[: self.max_length]
            ids[row, : len(pieces)] = pieces
            mask[row, : len(pieces)] = True
        return ids, mask

    def decode(self, ids: np.ndarray, mask: np.ndarray) -> list[str]:
        """Texts of the pieces (batch, length) where `mask` is True; ids beyond the vocabulary are unknown."""
        ids = np.where(np.asarray(ids) < len(self), ids, self.processor.unk_id())
        rows = [row[there].tolist() for row, there in zip(ids, np.asarray(mask), strict=True)]
        return [str(text) for text in self.processor.decode(rows)] if rows else []


def train_text_pieces(texts: Iterable[str], file: str | Path, num_pieces: int) -> int:
    """Trains a unigram sentencepiece model on `texts` and writes it to `file` atomically.

    Texts are lower-cased. The only special piece is the unknown one, id 0.

    Args:
      texts: training texts; empty ones are skipped.
      file: path of the model file.
      num_pieces: size of the vocabulary; more than the number of distinct characters.

    Returns:
      the number of pieces, which is below `num_pieces` if the texts do not provide more.

    Raises:
      ValueError: if there is no text, or `num_pieces` is too small.
    """
    from sentencepiece import SentencePieceTrainer

    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ValueError("There is no text to train on: give a data set with captions.")
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as writer:
            SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=writer,
                vocab_size=num_pieces,
                hard_vocab_limit=False,
                character_coverage=1.0,
                normalization_rule_name="nmt_nfkc_cf",
                num_threads=1,  # the result depends on the number of threads
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                minloglevel=2,
            )
        unfinished.replace(file)
    except RuntimeError as error:
        raise ValueError(
            f"sentencepiece cannot make {num_pieces} pieces of these {len(texts)} texts "
            f"({' '.join(str(error).split())}): ask for more pieces than they have characters."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return int(read_sentencepiece(file).vocab_size())
