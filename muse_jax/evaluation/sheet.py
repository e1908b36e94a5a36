"""Sheets of generated images: random ones, and the nearest to real images and the farthest from them."""

import numpy as np
from jaxtyping import Float, UInt8

IMAGES = 16


class Sheet:
    """Keeps a few of the images that pass by.

    Args:
      real: features of real images; with no rows, only random images are kept.
    """

    def __init__(self, real: Float[np.ndarray, "m dim"]):
        self._real = np.asarray(real, np.float32)
        self._norms = np.sum(self._real**2, axis=1)
        self._random: list[np.ndarray] = []
        self._ranked: list[tuple[float, int, np.ndarray]] = []
        self._count = 0

    def add(self, images: UInt8[np.ndarray, "n h w 3"], features: Float[np.ndarray, "n dim"]) -> None:
        """Considers images with their features."""
        self._random += [_own(image) for image in images[: IMAGES - len(self._random)]]
        if not len(self._real) or not len(images):
            return
        products = features @ self._real.T
        distances = np.sum(features**2, axis=1) + np.min(self._norms - 2 * products, axis=1)
        for image, distance in zip(images, distances, strict=True):
            self._ranked.append((float(distance), self._count, image))
            self._count += 1
        self._ranked.sort(key=lambda entry: entry[:2])
        kept = self._ranked[:IMAGES] + self._ranked[max(IMAGES, len(self._ranked) - IMAGES) :]
        self._ranked = [(distance, number, _own(image)) for distance, number, image in kept]

    def images(self) -> dict[str, UInt8[np.ndarray, "n h w 3"]]:
        """`random`, the first images; `best` and `worst`, by the distance to the nearest real image."""
        kept = {
            "random": self._random,
            "best": [image for *_, image in self._ranked[:IMAGES]],
            "worst": [image for *_, image in self._ranked[::-1][:IMAGES]],
        }
        return {name: np.stack(images) for name, images in kept.items() if images}


def _own(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The image in memory of its own: a view would keep its whole batch."""
    return image if image.base is None else image.copy()
