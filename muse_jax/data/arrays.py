"""Images in an npz, as ADM's evaluator (guided-diffusion) reads and writes them."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np


class ArraySource:
    """The images `arr_0` of an npz, held in memory; the caption is the number in `arr_1`, or empty.

    Raises:
      ValueError: the file cannot be read or has no images, or the split is not "train", the only one.
    """

    def __init__(self, path: str | Path, split: str = "train"):
        if split != "train":
            raise ValueError(f"npz:{path} has no split {split!r}: it has only 'train'.")
        try:
            with np.load(path) as stored:
                arrays = {name: stored[name] for name in ("arr_0", "arr_1") if name in stored}
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"The images of {path} cannot be read: {error}.") from error
        images = arrays.get("arr_0")
        if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"{path} has no images: arr_0 must be uint8 of shape (n, height, width, 3).")
        self._images, self._labels = images, arrays.get("arr_1")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        caption = "" if self._labels is None else str(self._labels[index])
        return {"image": self._images[index], "captions": [caption], "name": f"arr_0[{index}]"}
