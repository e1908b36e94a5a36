"""Training of VQGAN-Seg, the tokenizer of segmentation maps and line drawings (arXiv 2111.12417, 4.1)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.systems.vqgan.tasks import VQGANTask
from muse_jax.tokenizers import VQGANSeg
from muse_jax.tokenizers.quantizer import Quantized, code_histogram
from muse_jax.training.task import PREVIEW_IMAGES, Batch, Sums

LOSS = {
    "cross_entropy": 1.0,  # of the classes of pixels, in nats
    "codebook": 1.0,
    "commitment": 0.25,
    "entropy": 0.0,
    "restart_every": 0,  # steps between restarts of codes that the batch does not use; 0: never
}


class VQGANSegTask(VQGANTask):
    """Training of a `VQGANSeg` with the cross-entropy of the classes of pixels and the codebook's losses.

    It reads images in the colors of the palette. Cross-entropy replaces the absolute error and the perceptual
    loss of a VQGAN, and there is no discriminator.
    """

    tokenizer_class = VQGANSeg
    loss_weights: ClassVar[Mapping[str, Any]] = LOSS

    def frozen(self) -> Any:
        return {"generator": {}}

    def frozen_shapes(self) -> Any:
        return {"generator": {}}

    def classes(self, images: Array) -> Int[Array, "b h w"]:
        """The classes of the pixels of uint8 images."""
        found: Any = self.vqgan.apply({}, to_unit_range(images), method="classes")
        return found

    def predict(self, params: Any, images: Array) -> tuple[Float[Array, "b h w classes"], Quantized]:
        """Logits of the classes of uint8 images, and the quantization."""
        found: Any = self.vqgan.apply({"params": params["generator"]}, to_unit_range(images))
        return found

    def loss(self, params: Any, frozen: Any, batch: Batch, key: Array, step: Array):
        logits, quantized = self.predict(params, batch["image"])
        classes = self.classes(batch["image"])
        terms = {
            "cross_entropy": jnp.mean(_cross_entropy(logits, classes)),
            "codebook": quantized.codebook_loss,
            "commitment": quantized.commitment_loss,
            "entropy": quantized.entropy_loss,
        }
        loss = sum(self.weights[name] * value for name, value in terms.items())
        metrics = {
            "pixel_accuracy": jnp.mean(_right(logits, classes)),
            "usage": quantized.usage,
            "perplexity": quantized.perplexity,
        }
        return loss, {**terms, **metrics}

    def evaluate(self, params: Any, frozen: Any, batch: Batch, keys: Array) -> dict[str, Sums]:
        """Cross-entropy, share of pixels in the right class (PA) and histogram of codes of each image."""
        logits, quantized = self.predict(params, batch["image"])
        classes = self.classes(batch["image"])
        size, groups = self.vqgan.codebook_size, self.vqgan.groups
        scores = {
            "cross_entropy": jnp.mean(_cross_entropy(logits, classes), axis=(1, 2)),
            "pixel_accuracy": jnp.mean(_right(logits, classes), axis=(1, 2)),
            "histogram": jax.vmap(lambda ids: code_histogram(ids, size, groups))(quantized.ids),
        }
        return {name: (score, jnp.ones(len(logits))) for name, score in scores.items()}

    def preview(self, params: Any, frozen: Any, batch: Batch, key: Array) -> dict[str, Array]:
        images = batch["image"][:PREVIEW_IMAGES]
        logits, _ = self.predict(params, images)
        painted: Any = self.vqgan.apply({}, logits, method="paint")
        return {"reconstruction": jnp.concatenate([images, from_unit_range(painted)])}


def _cross_entropy(logits: Array, classes: Array) -> Float[Array, "b h w"]:
    return optax.softmax_cross_entropy_with_integer_labels(logits, classes)


def _right(logits: Array, classes: Array) -> Float[Array, "b h w"]:
    return (jnp.argmax(logits, axis=-1) == classes).astype(jnp.float32)
