"""Text states of a whole data set, computed in advance."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from muse_jax.text.encoder import TextEncoder
from muse_jax.text.text_tokenizers import check_texts


def encode_captions(
    encoder: TextEncoder,
    captions: Sequence[str],
    *,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes captions, each distinct one once.

    Args:
      encoder: the text encoder.
      captions: n texts.
      batch_size: texts per device call, at least 1; the last batch is padded.
      progress: called as `progress(done, total)` after each batch, counting distinct captions.

    Returns:
      states float16 (n, max_length, dim), zero at masked positions, and mask bool (n, max_length).

    Raises:
      ValueError: for a batch size below 1, or states that float16 cannot represent.
    """
    if batch_size < 1:
        raise ValueError(f"The batch size is {batch_size}; it must be 1 or more.")
    captions = check_texts(captions)
    row_of = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
    ids, mask = encoder.tokenize(list(row_of))
    states = np.empty((len(row_of), encoder.max_length, encoder.dim), np.float16)
    apply = jax.jit(encoder.apply)
    for start in range(0, len(row_of), batch_size):
        # Rows past the end repeat the last caption and are dropped.
        rows = np.minimum(np.arange(start, start + batch_size), len(row_of) - 1)
        count = min(batch_size, len(row_of) - start)
        batch = np.asarray(apply(encoder.params, ids[rows], mask[rows]))[:count]
        batch = np.where(mask[start : start + count, :, None], batch, 0)
        if not np.abs(batch).max() <= np.finfo(np.float16).max:
            raise ValueError("A caption's states are too large for float16 or not finite; check the weights.")
        states[start : start + count] = batch
        if progress is not None:
            progress(start + count, len(row_of))
    index = np.array([row_of[caption] for caption in captions], np.int64)
    return states[index], mask[index]
