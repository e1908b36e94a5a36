"""Words of a text as ids: a hash of each."""

import zlib
from collections.abc import Sequence

import numpy as np

BUCKETS, LENGTH = 64, 8


def words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32 (batch, LENGTH) of the first words of each text, and mask bool (batch, LENGTH)."""
    ids, mask = np.zeros((len(texts), LENGTH), np.int32), np.zeros((len(texts), LENGTH), bool)
    for row, text in enumerate(texts):
        for column, word in enumerate(text.split()[:LENGTH]):
            ids[row, column], mask[row, column] = zlib.crc32(word.encode()) % BUCKETS, True
    return ids, mask
