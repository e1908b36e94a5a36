"""Images: decoding, resizing and augmentation as uint8 on the host, and the range [-1, 1] of networks."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

AUGMENTATIONS = ("none", "crop", "zoom", "flip")
ZOOM_RANGE = (0.8, 1.0)


def decode_image(data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Encoded bytes (PNG, JPEG, WebP, ...) as RGB; transparency is laid on white.

    Raises:
      OSError, ValueError, SyntaxError: what PIL raises for bytes that are no picture, or a part of one.
    """
    with Image.open(io.BytesIO(data)) as file:
        image: Image.Image = file
        if "A" in image.getbands() or "transparency" in image.info:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.array(image.convert("RGB"))


def resize(image: UInt8[np.ndarray, "height width 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The middle square at `size` pixels: mean over blocks for a whole factor, else Lanczos."""
    height, width = image.shape[:2]
    side = min(height, width)
    if height != width:
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    if side == size:
        return image
    resample = Image.Resampling.BOX if side % size == 0 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize((size, size), resample))


def parse_augment(augment: str) -> tuple[str, ...]:
    """The steps of "none", "crop", "zoom", "flip" or a sum such as "crop+flip".

    Raises:
      ValueError: an unknown step, or "crop" together with "zoom".
    """
    steps = tuple(augment.split("+"))
    unknown = [step for step in steps if step not in AUGMENTATIONS]
    if unknown:
        raise ValueError(
            f"augment={augment!r} has the unknown step {unknown[0]!r}: use {', '.join(AUGMENTATIONS)}, "
            'or a sum such as "crop+flip".'
        )
    if "crop" in steps and "zoom" in steps:
        raise ValueError(f"augment={augment!r} cuts twice: use either crop or zoom.")
    return steps


def augment_image(
    image: UInt8[np.ndarray, "height width 3"], size: int, steps: Sequence[str], rng: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    """`image` at `size` pixels after the random `steps` of `parse_augment`.

    "crop" cuts a square of `size` pixels at the stored scale, "zoom" one of 80 to 100 % of the shorter side,
    and "flip" mirrors left and right half of the time. A picture smaller than a crop is enlarged first.
    """
    height, width = image.shape[:2]
    if "crop" in steps or "zoom" in steps:
        shorter = min(height, width)
        side = size if "crop" in steps else max(1, round(shorter * rng.uniform(*ZOOM_RANGE)))
        if side > shorter:
            image, height, width = resize(image, side), side, side
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        image = image[top : top + side, left : left + side]
    image = resize(image, size)
    if "flip" in steps and rng.random() < 0.5:
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def tile_images(images: np.ndarray, padding: int = 2) -> np.ndarray:
    """Arranges uint8 images (n, height, width, 3) row by row in a nearly square grid with white borders."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.full(
        (rows * (height + padding) + padding, columns * (width + padding) + padding, channels), 255, np.uint8
    )
    for index, image in enumerate(images):
        top = padding + (index // columns) * (height + padding)
        left = padding + (index % columns) * (width + padding)
        grid[top : top + height, left : left + width] = image
    return grid


def to_unit_range(images: UInt8[Array, "... height width 3"]) -> Float[Array, "... height width 3"]:
    """0..255 to [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def from_unit_range(images: Float[Array, "... height width 3"]) -> UInt8[Array, "... height width 3"]:
    """[-1, 1], clipped, to 0..255, rounded."""
    return jnp.round(jnp.clip(images * 127.5 + 127.5, 0, 255)).astype(jnp.uint8)
