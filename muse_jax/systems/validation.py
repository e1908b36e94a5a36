"""Checks of pipeline arguments; each raises a ValueError before any device work."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from muse_jax.sampling.params import check_steps
from muse_jax.text.text_tokenizers import check_texts


def check_num_samples(num_samples: Any) -> None:
    """Checks that `num_samples` is None or a whole number of at least 1."""
    if num_samples is not None:
        check_steps("num_samples", num_samples)


def check_seed(seed: Any) -> None:
    """Checks that `seed` is a whole number from 0 to 2**32 - 1."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1, given {seed!r}.")


def check_prompts(prompts: Any, name: str = "prompts", count: int | None = None) -> list[str]:
    """Checks that there is at least one prompt, or `count` of them, and returns them as a list."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence | np.ndarray):
        raise ValueError(f"{name} must be a list of strings, such as ['a red heart'], given {prompts!r}.")
    texts = check_texts(prompts)
    if not texts:
        raise ValueError(f"{name} is an empty list: give at least one string, such as ['a red heart'].")
    if count is not None and len(texts) != count:
        raise ValueError(f"{name} must be {count} strings, one for each image, given {len(texts)}.")
    return texts


def check_negative_prompt(negative_prompt: Any) -> str:
    """Returns the negative prompt, which is empty for None."""
    if negative_prompt is not None and not isinstance(negative_prompt, str):
        raise ValueError(f"negative_prompt must be one string or None, given {negative_prompt!r}.")
    return negative_prompt or ""


def check_images(images: Any, size: tuple[int, int] | None) -> np.ndarray:
    """Checks that images are uint8 (batch, height, width, 3), and of `size` (height, width) if given."""
    array = np.asarray(images)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(
            "images must be uint8 of shape (batch, height, width, 3), "
            f"given {array.dtype} of shape {array.shape}."
        )
    if size is not None and array.shape[1:3] != size:
        raise ValueError(
            f"images are of {array.shape[1]}x{array.shape[2]} pixels, but this checkpoint generates "
            f"{size[0]}x{size[1]}: resize them."
        )
    return array


def check_mask(mask: Any, images: np.ndarray) -> np.ndarray:
    """Returns the mask as bool (batch, height, width); a mask (height, width) applies to all images."""
    array = np.asarray(mask)
    whole = images.shape[:3]
    if array.dtype != np.bool_ or array.shape not in (whole, whole[1:]):
        raise ValueError(
            f"mask must be bool of shape {whole} or {whole[1:]}, True for pixels to replace, "
            f"given {array.dtype} of shape {array.shape}."
        )
    return np.broadcast_to(array, whole)


def check_margins(margins: Any, images: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Checks that the images with their margins (top, bottom, left, right) in pixels have `size`."""
    if (
        not isinstance(margins, Sequence)
        or len(margins) != 4
        or not all(isinstance(m, int | np.integer) and m >= 0 for m in margins)
    ):
        raise ValueError(
            "margins must be four whole numbers of pixels, (top, bottom, left, right), "
            f"each 0 or greater, given {margins!r}."
        )
    top, bottom, left, right = (int(m) for m in margins)
    height, width = images.shape[1] + top + bottom, images.shape[2] + left + right
    if (height, width) != size:
        raise ValueError(
            f"images of {images.shape[1]}x{images.shape[2]} pixels with margins {tuple(margins)} make "
            f"{height}x{width}, but this checkpoint generates {size[0]}x{size[1]}: resize or crop "
            "the images, or change the margins."
        )
    return top, bottom, left, right
