"""Batches from a source (Grain): seeded, sharded by process, with a state that can be saved."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from muse_jax.data.captions import PLAIN_CAPTIONS, CaptionTemplate
from muse_jax.data.precomputed import PrecomputedLoader, PrecomputedSource, check_identity
from muse_jax.data.sources import CorruptRecordError, array_fields
from muse_jax.media import ImageModality, Modality
from muse_jax.media.image import check_size

if TYPE_CHECKING:  # belongs to the extra "train", imported when a loader is made
    import grain

Tokenize = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]
Caption = Callable[[dict[str, Any], np.random.Generator], str]


class _Reader:
    """Turns record numbers into examples: caches records, augments them and skips corrupt ones."""

    def __init__(self, source: Any, modalities: Mapping[str, Modality], caption: Caption, cache_bytes: int):
        self.source, self.modalities, self.caption = source, modalities, caption
        self.fields = array_fields(source)
        self.corrupt: dict[int, str] = {}
        self._cache: dict[int, dict[str, Any]] = {}
        self._cache_left = cache_bytes
        self._lock = threading.Lock()

    def _record(self, index: int) -> dict[str, Any]:
        record = self._cache.get(index)
        if record is None:
            record = dict(self.source[index])
            record |= {field: modality.fit(record) for field, modality in self.modalities.items()}
            size = sum(np.asarray(record[field]).nbytes for field in self.fields)
            with self._lock:
                if size <= self._cache_left:
                    self._cache_left -= size
                    self._cache[index] = record
        return record

    def _good_record(self, index: int) -> tuple[int, dict[str, Any]]:
        """Record `index`, or the next readable one, so that batches keep their size."""
        for candidate in range(index, index + len(self.source)):
            candidate %= len(self.source)
            if candidate in self.corrupt:
                continue
            try:
                return candidate, self._record(candidate)
            except CorruptRecordError as error:
                with self._lock:
                    if candidate not in self.corrupt:
                        self.corrupt[candidate] = str(error)
                        logging.warning(
                            "Skipped record %d: %s. %d so far.", candidate, error, len(self.corrupt)
                        )
        raise ValueError(
            f"all {len(self.source)} records of the data source are corrupt: {self.corrupt[index]}."
        )

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        good, record = self._good_record(int(index))
        example = {field: record[field] for field in self.fields}
        example |= {field: modality.draw(record[field], rng) for field, modality in self.modalities.items()}
        return {**example, "caption": self.caption(record, rng), "index": good, "real": good == index}


class Loader:
    """Endless or finite iterator of batches, whose state is a small dict that can be stored as JSON."""

    def __init__(self, batches: grain.IterDataset, reader: _Reader, identity: dict[str, Any]):
        self._iterator = iter(batches)
        self._reader = reader
        self._identity = identity

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        return next(self._iterator)

    @property
    def corrupt(self) -> dict[int, str]:
        """The corrupt records found so far: index -> name and reason."""
        return dict(self._reader.corrupt)

    @property
    def skipped(self) -> int:
        """Number of different corrupt records skipped so far."""
        return len(self._reader.corrupt)

    def get_state(self) -> dict[str, Any]:
        """The position of the iterator; after `set_state` with it, the same batches follow again."""
        return {**self._identity, "position": self._iterator.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to the position at which `state` was taken.

        Raises:
          ValueError: the state belongs to a loader with another source length, batch size or seed.
        """
        check_identity(self._identity, state)
        self._iterator.set_state(state["position"])


def _collate(
    fields: Sequence[str], tokenize: Tokenize | None, finite: bool
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    def collate(records: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {
            **{field: np.stack([record[field] for record in records]) for field in fields},
            "index": np.array([record["index"] for record in records], np.int64),
        }
        if finite:
            batch["example_mask"] = np.array([record["real"] for record in records])
        captions = [record["caption"] for record in records]
        if tokenize is None:
            return {**batch, "caption": captions}
        ids, mask = tokenize(captions)
        return {**batch, "caption_ids": np.asarray(ids, np.int32), "caption_mask": np.asarray(mask, bool)}

    return collate


def make_loader(
    source: Any,
    *,
    batch_size: int,
    image_size: int | None = None,
    modalities: Mapping[str, Modality] | None = None,
    encoder_tokenize: Tokenize | None = None,
    caption: Caption | None = None,
    augment: str = "none",
    seed: int = 0,
    shuffle: bool = True,
    num_epochs: int | None = None,
    rows: Sequence[int] | np.ndarray | None = None,
    workers: int = 2,
    cache_bytes: int = 1 << 30,
) -> Loader | PrecomputedLoader:
    """Makes an iterator of batches from `source`.

    The order is drawn for all processes together, and each process takes its `rows` of every batch: batch k
    holds the same records in the same rows, with the same augmentations and captions, on any number of
    processes.

    Args:
      source: from `load_source`. For a `PrecomputedSource` only batch_size, seed, shuffle, num_epochs, rows
        and whether `caption` is `PLAIN_CAPTIONS` matter.
      batch_size: number of examples, over all processes.
      image_size: side of the images in pixels.
      modalities: field -> how it is augmented and brought to the same shape in all records. The default for
        "image" is `ImageModality(image_size, augment)`; fields without a modality are stacked as they are.
      encoder_tokenize: captions -> (ids, mask). Without it batches have `caption`, a list of str.
      caption: (record, generator) -> str, by default `CaptionTemplate()`.
      augment: "none", "crop", "zoom", "flip" or a sum of images' steps, see `muse_jax.media.image.View.draw`.
      num_epochs: number of passes over the source, None for an endless iterator. A finite one pads the last
        batch with repeated records, and its batches have `example_mask`.
      rows: rows of a batch, from 0 to batch_size - 1, that this process reads; by default all.
      workers: number of threads that read and decode ahead; 0 reads in the caller's thread.
      cache_bytes: memory for decoded records; one pass over the source keeps none.

    Returns:
      An iterator of batches with an array for each of the source's fields, such as "image": uint8 (batch,
      size, size, 3); "caption_ids": int32 (batch, length); "caption_mask": bool (batch, length); "index":
      int64 (batch,), the number of each record; and with `num_epochs` "example_mask": bool (batch,), False
      for examples that only pad the batch or replace a corrupt record. A corrupt record is replaced by the
      next one, logged by name and counted in `.skipped`.

    Raises:
      ValueError: an argument is out of range, or a video or audio field has no modality.
    """
    places = np.arange(batch_size) if rows is None else np.asarray(rows)
    _check(batch_size, num_epochs, places)
    if isinstance(source, PrecomputedSource):
        if augment != "none":
            raise ValueError(
                f"augment is {augment!r}, but a precomputed source holds augmented images already: set it to "
                "none."
            )
        first_caption = caption == PLAIN_CAPTIONS
        return PrecomputedLoader(source, batch_size, seed, shuffle, num_epochs, places, first_caption)
    modalities = _modalities(source, modalities, image_size, augment)
    import grain

    cache_bytes = 0 if num_epochs == 1 else cache_bytes  # nothing is read twice
    reader = _Reader(source, modalities, caption or CaptionTemplate(), cache_bytes)
    records = grain.MapDataset.range(len(source))
    if shuffle:
        records = records.shuffle(seed=seed % 2**32)
    records = records.repeat(num_epochs).random_map(reader, seed=seed % 2**32)
    if num_epochs is not None:
        records = _pad_last_batch(records, batch_size)
    if len(places) < batch_size:
        records = _rows_of_batches(records, batch_size, places)
    collate = _collate(reader.fields, encoder_tokenize, finite=num_epochs is not None)
    batches = records.batch(len(places), drop_remainder=True, batch_fn=collate)
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)
    identity = {"records": len(source), "batch_size": batch_size, "seed": seed, "shuffle": shuffle}
    return Loader(batches.to_iter_dataset(options), reader, identity)


def _modalities(
    source: Any, given: Mapping[str, Modality] | None, image_size: int | None, augment: str
) -> Mapping[str, Modality]:
    """The modality of each field that has one."""
    fields = array_fields(source)
    modalities = dict(given or {})
    if "image" in fields and "image" not in modalities:
        modalities["image"] = ImageModality(check_size(image_size), augment)
    missing = [field for field in ("video", "audio") if field in fields and field not in modalities]
    if missing:
        raise ValueError(
            f"the source has the field {missing[0]!r}, whose length and rate are not given: use "
            f"modalities={{{missing[0]!r}: muse_jax.media.{missing[0].title()}Modality(...)}}."
        )
    return modalities


def _pad_last_batch(records: grain.MapDataset, batch_size: int) -> grain.MapDataset:
    """The records, followed by as many of the first ones as fill the last batch, marked as not real."""
    import grain

    count = len(records)

    def pick(place: int) -> Any:
        return records[place] if place < count else {**records[place % count], "real": False}

    return grain.MapDataset.range(-(-count // batch_size) * batch_size).map(pick)


def _rows_of_batches(records: grain.MapDataset, batch_size: int, rows: np.ndarray) -> grain.MapDataset:
    """The records in `rows` of each batch, batch after batch."""
    import grain

    def pick(place: int) -> Any:
        batch, row = divmod(int(place), len(rows))
        return records[batch * batch_size + int(rows[row])]

    return grain.MapDataset.range(len(records) // batch_size * len(rows)).map(pick)


def _check(batch_size: int, num_epochs: int | None, rows: np.ndarray) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it must be at least 1.")
    if not len(rows) or len(set(rows.tolist())) < len(rows) or min(rows) < 0 or max(rows) >= batch_size:
        raise ValueError(
            f"rows is {rows.tolist()}: give distinct rows of a batch, from 0 to {batch_size - 1}."
        )
    if num_epochs is not None and num_epochs < 1:
        raise ValueError(
            f"num_epochs is {num_epochs}: it must be at least 1, or None for an endless iterator."
        )
