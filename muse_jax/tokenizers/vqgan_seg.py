"""VQGAN-Seg: the VQGAN of segmentation maps and line drawings (NUWA, arXiv 2111.12417, section 4.1)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from PIL import ImageColor

from muse_jax.tokenizers.quantizer import Quantized
from muse_jax.tokenizers.vqgan import VQGAN


class VQGANSeg(VQGAN):
    """VQGAN that reads one-hot classes of pixels and predicts them.

    Like every tokenizer it encodes images in [-1, 1] and decodes to them: the class of a pixel is that of the
    nearest color of the palette.

    Fields: those of `VQGAN`, and
      palette: the color of each class, such as "#ff0000"; by default black lines on white.
    """

    palette: Sequence[str] = ("#000000", "#ffffff")

    @property
    def channels(self) -> int:
        return len(self.palette)

    def classes(self, images: Float[Array, "b height width 3"]) -> Int[Array, "b height width"]:
        """The class of each pixel of images in [-1, 1]."""
        distances = [jnp.sum((images - color) ** 2, axis=-1) for color in self._colors()]
        return jnp.argmin(jnp.stack(distances, axis=-1), axis=-1)

    def __call__(
        self, images: Float[Array, "b height width 3"]
    ) -> tuple[Float[Array, "b height width classes"], Quantized]:
        """Logits of the classes of each pixel; also returns the quantization with its losses."""
        return super().__call__(images)

    def encode_vectors(self, images: Float[Array, "b height width 3"]) -> Float[Array, "b h w dim"]:
        self.latent_spec(images.shape[1:])
        return self.encoder(jax.nn.one_hot(self.classes(images), self.channels, dtype=self.dtype))

    def decode_ids(self, ids: Int[Array, "b h w *groups"]) -> Float[Array, "b height width 3"]:
        return self.paint(super().decode_ids(ids))

    def paint(self, logits: Float[Array, "b height width classes"]) -> Float[Array, "b height width 3"]:
        """Images in [-1, 1] of the most probable classes."""
        return self._colors()[jnp.argmax(logits, axis=-1)]

    def _colors(self) -> Float[Array, "classes 3"]:
        return jnp.array([ImageColor.getcolor(color, "RGB") for color in self.palette]) / 127.5 - 1
