"""Batches from a source, through Grain: seeded, sharded by process, with a state to save and restore."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from muse_jax.data.captions import PLAIN_CAPTIONS, CaptionTemplate
from muse_jax.data.precomputed import PrecomputedLoader, PrecomputedSource, check_identity
from muse_jax.data.sources import CorruptImageError
from muse_jax.media.image import augment_image, parse_augment, resize

if TYPE_CHECKING:  # of the extra "train": imported where a loader is made
    import grain

Tokenize = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]
Caption = Callable[[dict[str, Any], np.random.Generator], str]


class _Reader:
    """Reads records once, keeps them at the size they are used at, and remembers the corrupt ones."""

    def __init__(self, source: Any, size: int, augment: str, caption: Caption, cache_bytes: int):
        self.source, self.size, self.caption = source, size, caption
        self.steps = parse_augment(augment)
        self.corrupt: dict[int, str] = {}
        self._cache: dict[int, dict[str, Any]] = {}
        self._cache_left = cache_bytes
        self._lock = threading.Lock()

    def _record(self, index: int) -> dict[str, Any]:
        record = self._cache.get(index)
        if record is None:
            record = dict(self.source[index])
            if "crop" not in self.steps and "zoom" not in self.steps:
                record["image"] = resize(record["image"], self.size)
            with self._lock:
                if record["image"].nbytes <= self._cache_left:
                    self._cache_left -= record["image"].nbytes
                    self._cache[index] = record
        return record

    def _good_record(self, index: int) -> tuple[int, dict[str, Any]]:
        """Record `index`, or the next one that can be read: a batch keeps its shape."""
        for candidate in range(index, index + len(self.source)):
            candidate %= len(self.source)
            if candidate in self.corrupt:
                continue
            try:
                return candidate, self._record(candidate)
            except CorruptImageError as error:
                with self._lock:
                    if candidate not in self.corrupt:
                        self.corrupt[candidate] = str(error)
                        logging.warning(
                            "Skipped record %d: %s. %d so far.", candidate, error, len(self.corrupt)
                        )
        raise ValueError(
            f"all {len(self.source)} images of the data source are corrupt: {self.corrupt[index]}."
        )

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        good, record = self._good_record(int(index))
        image = augment_image(record["image"], self.size, self.steps, rng)
        return {"image": image, "caption": self.caption(record, rng), "index": good, "real": good == index}


class Loader:
    """An endless or finite iterator of batches; its state is a small dict that JSON can hold.

    Attributes:
      corrupt: record index -> the name of that record and why it was skipped, as far as was read.
    """

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
        return dict(self._reader.corrupt)

    @property
    def skipped(self) -> int:
        """How many different records were skipped because their picture is corrupt."""
        return len(self._reader.corrupt)

    def get_state(self) -> dict[str, Any]:
        """Where the iterator is: the batches after `set_state` of it are the ones that would have come."""
        return {**self._identity, "position": self._iterator.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken.

        Raises:
          ValueError: the state is of a loader with another source length, batch size or seed.
        """
        check_identity(self._identity, state)
        self._iterator.set_state(state["position"])


def _collate(tokenize: Tokenize | None, finite: bool) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    def collate(records: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {
            "image": np.stack([record["image"] for record in records]),
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
    """An iterator of batches from `source`.

    The order is drawn for all processes together, and each takes its `rows` out of every batch: batch k holds
    the same records in the same places, with the same augmentation and captions, however many share it.

    Args:
      source: what `load_source` gives. Of a `PrecomputedSource` only batch_size, seed, shuffle, num_epochs,
        rows and whether `caption` is `PLAIN_CAPTIONS` matter.
      batch_size: over all processes.
      image_size: side of the images in pixels; larger ones are downsampled over areas.
      encoder_tokenize: captions -> (ids, mask); without it batches carry `caption`, a list of str.
      caption: (record, generator) -> str; by default `CaptionTemplate()`.
      augment: "none", "crop", "zoom", "flip" or a sum, see `muse_jax.media.image.augment_image`.
      num_epochs: None repeats the source without end. With a number, the last batch is filled up with
        repeated records, and every batch has `example_mask`.
      rows: places in a batch, from 0 to batch_size - 1, that this process reads; all by default.
      workers: threads that read and decode ahead; 0 reads in the caller's thread.
      cache_bytes: how much of the decoded images is kept in memory.

    Returns:
      Batches {"image": uint8 (batch, size, size, 3), "caption_ids": int32 (batch, length), "caption_mask":
      bool (batch, length), "index": int64 (batch,)}, and with `num_epochs` "example_mask": bool (batch,),
      True for each record of the source once an epoch, False for what stands in for another. A corrupt image
      is replaced by the next record, logged by name and counted in `.skipped`.

    Raises:
      ValueError: an argument is out of range.
    """
    places = np.arange(batch_size) if rows is None else np.asarray(rows)
    _check(batch_size, num_epochs, places)
    if isinstance(source, PrecomputedSource):
        if augment != "none":
            raise ValueError(
                f"augment is {augment!r}, but a precomputed source holds images as they are read: set it to "
                "none."
            )
        first_caption = caption == PLAIN_CAPTIONS
        return PrecomputedLoader(source, batch_size, seed, shuffle, num_epochs, places, first_caption)
    if image_size is None or image_size < 1:
        raise ValueError(f"image_size is {image_size}: give the side of the images in pixels, at least 1.")
    import grain

    reader = _Reader(source, image_size, augment, caption or CaptionTemplate(), cache_bytes)
    records = grain.MapDataset.range(len(source))
    if shuffle:
        records = records.shuffle(seed=seed % 2**32)
    records = records.repeat(num_epochs).random_map(reader, seed=seed % 2**32)
    if num_epochs is not None:
        records = _fill_last_batch(records, batch_size)
    if len(places) < batch_size:
        records = _rows_of_batches(records, batch_size, places)
    collate = _collate(encoder_tokenize, finite=num_epochs is not None)
    batches = records.batch(len(places), drop_remainder=True, batch_fn=collate)
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)
    identity = {"records": len(source), "batch_size": batch_size, "seed": seed, "shuffle": shuffle}
    return Loader(batches.to_iter_dataset(options), reader, identity)


def _fill_last_batch(records: grain.MapDataset, batch_size: int) -> grain.MapDataset:
    """The records, and then as many of the first ones again, marked as no examples, as fill a batch."""
    import grain

    count = len(records)

    def pick(place: int) -> Any:
        return records[place] if place < count else {**records[place % count], "real": False}

    return grain.MapDataset.range(-(-count // batch_size) * batch_size).map(pick)


def _rows_of_batches(records: grain.MapDataset, batch_size: int, rows: np.ndarray) -> grain.MapDataset:
    """The records at `rows` of each batch, batch after batch."""
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
            f"rows is {rows.tolist()}: give different places in a batch, from 0 to {batch_size - 1}."
        )
    if num_epochs is not None and num_epochs < 1:
        raise ValueError(f"num_epochs is {num_epochs}: it must be at least 1, or None to go on for ever.")
