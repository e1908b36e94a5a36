"""Images: uint8 arrays (height, width, 3) on the host, and the range [-1, 1] of networks."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
AUGMENTATIONS = ("none", "crop", "zoom", "flip")
ZOOM_RANGE = (0.8, 1.0)


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """A PIL image as RGB; transparent pixels are composited on white."""
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"))


def decode_image(data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes a PNG, JPEG, WebP or other file that Pillow reads to RGB; transparency becomes white.

    Raises:
      OSError, ValueError, SyntaxError: the bytes are not a complete image.
    """
    with Image.open(io.BytesIO(data)) as image:
        return to_rgb(image)


def encode_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Encodes an image as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def parse_augment(augment: str, allowed: Sequence[str] = AUGMENTATIONS) -> tuple[str, ...]:
    """Splits "none", one of the `allowed` steps, or a sum such as "crop+flip" into its steps.

    Raises:
      ValueError: an unknown step, or "crop" together with "zoom".
    """
    steps = tuple(augment.split("+"))
    unknown = [step for step in steps if step not in allowed]
    if unknown:
        raise ValueError(
            f"augment={augment!r} has the unknown step {unknown[0]!r}: use {', '.join(allowed)}, or a sum of "
            'steps such as "crop+flip".'
        )
    if "crop" in steps and "zoom" in steps:
        raise ValueError(f"augment={augment!r} crops twice: use either crop or zoom.")
    return steps


@dataclasses.dataclass(frozen=True)
class View:
    """A square window of an image, mirrored or not, as drawn by an augmentation."""

    top: int
    left: int
    side: int
    flip: bool = False

    @classmethod
    def center(cls, shape: Sequence[int]) -> View:
        """The largest square in the middle of an image of (height, width)."""
        height, width = shape
        side = min(height, width)
        return cls((height - side) // 2, (width - side) // 2, side)

    @classmethod
    def draw(cls, shape: Sequence[int], size: int, steps: Sequence[str], rng: np.random.Generator) -> View:
        """Draws the view of an image of (height, width) that is resized to `size` afterwards.

        "crop" takes a window of `size` pixels at a random place, "zoom" one of 80 to 100 % of the shorter
        side, and "flip" mirrors left and right with probability 1/2. Without "crop" and "zoom", or if the
        image is smaller than a crop, the window is the center.
        """
        view = cls.center(shape)
        if "crop" in steps or "zoom" in steps:
            side = size if "crop" in steps else max(1, round(view.side * rng.uniform(*ZOOM_RANGE)))
            if side <= view.side:
                top, left = (int(rng.integers(extent - side + 1)) for extent in shape)
                view = cls(top, left, side)
        return dataclasses.replace(view, flip="flip" in steps and rng.random() < 0.5)

    def apply(
        self, image: UInt8[np.ndarray, "height width 3"], size: int
    ) -> UInt8[np.ndarray, "size size 3"]:
        """This window of `image` at `size` pixels: mean over blocks for a whole factor, else Lanczos."""
        window = image[self.top : self.top + self.side, self.left : self.left + self.side]
        if self.side != size:
            resample = Image.Resampling.BOX if self.side % size == 0 else Image.Resampling.LANCZOS
            window = np.asarray(Image.fromarray(window).resize((size, size), resample))
        return np.ascontiguousarray(window[:, ::-1] if self.flip else window)


def resize(image: UInt8[np.ndarray, "height width 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The middle square at `size` pixels: mean over blocks for a whole factor, else Lanczos."""
    return View.center(image.shape[:2]).apply(image, size)


@dataclasses.dataclass(frozen=True)
class ImageModality:
    """Images of records as uint8 (size, size, 3).

    Args:
      size: side in pixels, at least 1.
      augment: "none", "crop", "zoom", "flip" or a sum such as "crop+flip", see `View.draw`.

    Raises:
      ValueError: a size or an augmentation that is not allowed.
    """

    size: int
    augment: str = "none"

    def __post_init__(self) -> None:
        check_size(self.size)
        parse_augment(self.augment)

    def fit(self, record: Mapping[str, Any]) -> np.ndarray:
        """The image of a record, resized unless a random window of it is needed."""
        image = record["image"]
        return image if needs_window(self.augment) else resize(image, self.size)

    def draw(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The augmented image at its final size."""
        view = View.draw(image.shape[:2], self.size, parse_augment(self.augment), rng)
        return view.apply(image, self.size)


def check_size(size: int | None) -> int:
    """Returns the side of images in pixels, if it is at least 1.

    Raises:
      ValueError: `size` is None or below 1.
    """
    if size is None or size < 1:
        raise ValueError(f"image_size is {size}: give the side of the images in pixels, at least 1.")
    return size


def needs_window(augment: str) -> bool:
    """True if an augmentation cuts random windows from the stored image."""
    return bool({"crop", "zoom"} & set(augment.split("+")))


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Images:
    """Images to look at.

    Attributes:
      pixels: uint8 (n, height, width, 3).
    """

    pixels: Any
    suffix = ".png"

    def encode(self) -> bytes:
        """A grid of the images as PNG."""
        return encode_png(tile_images(np.asarray(self.pixels)))


def to_unit_range(images: UInt8[Array, "... height width 3"]) -> Float[Array, "... height width 3"]:
    """Maps 0..255 to [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def from_unit_range(images: Float[Array, "... height width 3"]) -> UInt8[Array, "... height width 3"]:
    """Maps [-1, 1] to 0..255, clipped and rounded."""
    return jnp.round(jnp.clip(images * 127.5 + 127.5, 0, 255)).astype(jnp.uint8)
