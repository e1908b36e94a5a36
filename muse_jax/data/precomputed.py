"""Precomputed features (token ids, text states) in memory-mapped files, read in batches.

A folder holds `meta.json` and one `.npy` file per array. Their first axis counts N examples:
  image            (N, h, w, 3)      uint8, from experiments.prepare_images
  tokens           (N, n)            the smallest unsigned integer type that holds the codes
  superres_tokens  (N, m)            likewise
  text_states      (N, K, L, dim)    float16, K captions per example
  text_mask        (N, K, L)         bool
  caption_ids      (N, K, L)         int32, for text encoders inside the training step
  caption_mask     (N, K, L)         bool
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

IMAGES = "image"
VARIANT_ARRAYS = ("text_states", "text_mask", "caption_ids", "caption_mask")


def write_precomputed(folder: str | Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Writes the features of a split to `folder`, PATH/train of "precomputed:PATH" for instance, atomically.

    Args:
      folder: where to write; an existing folder is replaced.
      arrays: name -> array, all with the same first axis. Text arrays and masks have captions second.
      meta: how the features were made, as values that JSON can store.

    Raises:
      ValueError: there are no arrays, or their first axes or caption axes differ.
    """
    folder = Path(folder)
    _check_shapes({name: np.shape(array) for name, array in arrays.items()})
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(unfinished / f"{name}.npy", np.asarray(array))
    publish(unfinished, folder, meta)


def publish(unfinished: Path, folder: Path, meta: Mapping[str, Any]) -> None:
    """Adds meta.json to the `.npy` files of `unfinished` and moves it to `folder`, which it replaces."""
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(unfinished.glob("*.npy"))}
    summary = {name: [list(array.shape), str(array.dtype)] for name, array in arrays.items()}
    (unfinished / "meta.json").write_text(json.dumps({**meta, "arrays": summary}, indent=2) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(unfinished, folder)


def _check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    if not shapes:
        raise ValueError("there are no arrays to store: give at least one, for instance tokens.")
    if any(not shape for shape in shapes.values()) or len({shape[0] for shape in shapes.values()}) != 1:
        raise ValueError(
            f"the arrays must have the same first axis, one row per example, but have shapes {dict(shapes)}."
        )
    variants = {shapes[name][1:3] for name in VARIANT_ARRAYS if name in shapes}
    if len(variants) > 1:
        raise ValueError(
            f"texts and their masks must have the same captions and length, but have shapes {dict(shapes)}."
        )


class PrecomputedSource:
    """Random access to a folder of `write_precomputed`; record i is row i of every array."""

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        if not (folder / "meta.json").is_file():
            raise ValueError(f"{folder} has no meta.json: compute the features of that split first.")
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        missing = [name for name in self.meta["arrays"] if not (folder / f"{name}.npy").is_file()]
        if missing:
            raise ValueError(
                f"{folder} lacks {missing[0]}.npy, which meta.json lists: compute the features again."
            )
        self.arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in self.meta["arrays"]}
        _check_shapes({name: array.shape for name, array in self.arrays.items()})

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: np.array(array[index]) for name, array in self.arrays.items()}

    @property
    def variants(self) -> int:
        """Number of captions per example; 0 without text."""
        return next((self.arrays[name].shape[1] for name in VARIANT_ARRAYS if name in self.arrays), 0)

    def batch(self, rows: np.ndarray, variants: np.ndarray) -> dict[str, np.ndarray]:
        """Rows `rows` (batch,), each with its caption number `variants` (batch,); ids become int32."""
        batch = {"index": rows.astype(np.int64)}
        for name, array in self.arrays.items():
            value = array[rows, variants] if name in VARIANT_ARRAYS else array[rows]
            ids = np.issubdtype(value.dtype, np.integer) and name != IMAGES
            batch[name] = value.astype(np.int32) if ids else np.asarray(value)
        return batch


class PrecomputedLoader:
    """Batches of a `PrecomputedSource` by numpy indexing, with the interface of `muse_jax.data.Loader`.

    The epochs' orders, one after the other, are cut into batches; the state is the number of batches read.

    Args:
      source: the features.
      batch_size: number of examples, over all processes.
      seed: of the order and of the choice of captions.
      shuffle: True for a random order in each epoch.
      num_epochs: number of passes, None for an endless iterator. A finite one pads the last batch with
        repeated rows, and its batches have `example_mask`, False for those.
      rows: rows of a batch that this process reads; by default all.
      first_caption: True for the first caption of each example, False for a random one.
    """

    corrupt: dict[int, str] = {}
    skipped = 0

    def __init__(
        self,
        source: PrecomputedSource,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        num_epochs: int | None = None,
        rows: np.ndarray | slice = slice(None),
        first_caption: bool = False,
    ):
        self.source, self.batch_size, self.seed, self.shuffle = source, batch_size, seed, shuffle
        self._places, self._variants = rows, 1 if first_caption else max(1, source.variants)
        self._end = None if num_epochs is None else len(source) * num_epochs
        self._batch = 0
        self._order: tuple[int, np.ndarray] = (-1, np.arange(0))

    def _rows(self, places: np.ndarray) -> np.ndarray:
        """The rows of the source at `places` of the endless order."""
        rows = places % len(self.source)
        if self.shuffle:
            epochs = places // len(self.source)
            for epoch in np.unique(epochs):
                if self._order[0] != epoch:
                    generator = np.random.default_rng([self.seed % 2**32, 0, int(epoch)])
                    self._order = (int(epoch), generator.permutation(len(self.source)))
                rows[epochs == epoch] = self._order[1][rows[epochs == epoch]]
        return rows

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        places = self._batch * self.batch_size + np.arange(self.batch_size)
        if self._end is not None and places[0] >= self._end:
            raise StopIteration
        generator = np.random.default_rng([self.seed % 2**32, 1, self._batch])
        variants = generator.integers(self._variants, size=self.batch_size)
        end: Any = np.inf if self._end is None else self._end
        rows = self._rows(np.where(places < end, places, places % len(self.source)))
        self._batch += 1
        batch = self.source.batch(rows[self._places], variants[self._places])
        return batch if self._end is None else {**batch, "example_mask": (places < end)[self._places]}

    def _identity(self) -> dict[str, Any]:
        return {
            "records": len(self.source),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
        }

    def get_state(self) -> dict[str, Any]:
        """The position of the iterator; after `set_state` with it, the same batches follow again."""
        return {**self._identity(), "position": self._batch}

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to the position at which `state` was taken.

        Raises:
          ValueError: the state belongs to a loader with another source length, batch size or seed.
        """
        check_identity(self._identity(), state)
        self._batch = int(state["position"])


def check_identity(identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Checks that a state belongs to a loader of the same data.

    Raises:
      ValueError: `state` differs from `identity`.
    """
    for key, value in identity.items():
        if state.get(key) != value:
            raise ValueError(
                f"the saved data state has {key} {state.get(key)}, this run has {value}: resume with the "
                "same data, or start in a new work directory."
            )
