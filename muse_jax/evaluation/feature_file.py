"""Features and progress of an evaluation on disk, from which it resumes."""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from muse_jax.evaluation.embedding import Sums
from muse_jax.sharding.distributed import all_processes
from muse_jax.sharding.partitioning import put_tree, to_host


class FeatureFile:
    """Features of `num_samples` images, memory-mapped; rows are appended."""

    def __init__(self, path: Path, num_samples: int, dim: int, count: int = 0):
        mode = "r+" if count else "w+"
        self._rows: Any = np.lib.format.open_memmap(path, mode, np.float32, (num_samples, dim))
        self.count = count

    def append(self, features: np.ndarray) -> None:
        """Adds rows."""
        self._rows[self.count : self.count + len(features)] = features
        self.count += len(features)

    def flush(self) -> None:
        """Writes all rows to disk."""
        self._rows.flush()

    @property
    def rows(self) -> np.ndarray:
        """All rows so far, not read into memory."""
        return self._rows[: self.count]


class Progress:
    """Saves and restores the sums of an evaluation.

    Args:
      folder: where the files lie, shared by all processes.
      identity: what makes the figures; files of another identity are not used.
      shardings: layout of the sums on the mesh.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], shardings: Sums):
        content = json.dumps(identity, sort_keys=True, default=str)
        self.folder = folder / hashlib.sha256(content.encode()).hexdigest()[:16]
        self._shardings = shardings
        self._file = self.folder / "progress.npz"
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def features(self) -> Path:
        """File for the features that this process keeps."""
        return self.folder / f"features_{jax.process_index()}.npy"

    def save(self, batches: int, sums: Sums) -> None:
        """Saves the sums after a number of batches atomically. Called by every process."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(to_host(sums))]
        if jax.process_index() == 0:
            partial = self.folder / "progress.partial"
            with partial.open("wb") as file:
                np.savez(file, *leaves, batches=batches)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._file)

    def restore(self, zeros: Sums, with_features: bool) -> tuple[int, Sums]:
        """Number of batches done and their sums; 0 and `zeros` where nothing is saved.

        Args:
          with_features: whether the features are needed too.
        """
        if not all_processes(self._file.is_file() and (self.features.is_file() or not with_features)):
            return 0, zeros
        with np.load(self._file) as stored:
            batches = int(stored["batches"])
            leaves = [stored[f"arr_{i}"] for i in range(len(jax.tree.leaves(zeros)))]
        sums = jax.tree.unflatten(jax.tree.structure(zeros), leaves)
        return batches, put_tree(sums, self._shardings)

    def remove(self) -> None:
        """Removes this process's files, once the figures are known, and folders that this leaves empty."""
        self.features.unlink(missing_ok=True)
        if jax.process_index() == 0:
            self._file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()
            self.folder.parent.rmdir()
