"""Training of CogLM on images and their captions (CogView2, section 3.1)."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, UInt8

from muse_jax.checkpointing.source import open_source
from muse_jax.data.loader import Tokenize
from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.sampling.autoregressive import Sampling
from muse_jax.systems.cogview2.coglm import CogLM, CogLMBase
from muse_jax.systems.cogview2.sampling import (
    BoundCogLM,
    caption_cross_entropy,
    check_vocabulary,
    sample_image_tokens,
)
from muse_jax.systems.cogview2.sampling_params import CogLMSampling
from muse_jax.systems.cogview2.sequences import (
    Sequence,
    Vocabulary,
    draw_patches,
    draw_spans,
    image_to_text,
    select,
    text_only,
    text_to_image,
)
from muse_jax.systems.token_task import TokenTask, encode
from muse_jax.text import TextPieces
from muse_jax.tokenizers.clusters import FILE, Clusters, codebook_rows, load_clusters
from muse_jax.training.task import PREVIEW_IMAGES, Batch, Sums, build, check_loss_keys

LOSS = {
    "image_to_text": 0.3,  # share of pairs that predict the caption and patches of the image
    "text_only": 0.0,  # share of samples without their image
    "patch": 4,  # side of the patches
    "patch_share": 0.8,  # share of image tokens in patches, if overlaps are ignored
}


class CogViewTask(TokenTask):
    """Base of the tasks of CogView2, with one vocabulary of codes and text pieces, and clusters of codes."""

    config_defaults: ClassVar[Mapping[str, Any]] = {**TokenTask.config_defaults, "text_pieces": ""}

    def __init__(self, config: Any, network: type[CogLMBase]):
        super().__init__(config)
        self.tokenizer: Any = self.tokenizers["tokenizer"].module
        self.network: Any = build(network, "model", config.model)
        self.vocabulary = Vocabulary(self.tokenizer.codebook_size, self.network.vocab_size)
        check_vocabulary(self.network, self.vocabulary)

    def check_grid(self, image_size: int) -> int:
        """Checks the network's grid against the tokenizer at `image_size`, and returns its side."""
        side = image_size // self.tokenizer.downsampling
        if self.network.grid != (side, side):
            raise ValueError(
                f"config.model.grid is {self.network.grid}, but the tokenizer of config.tokenizer gives "
                f"{(side, side)} at {image_size} px: set it to this."
            )
        return side

    @cached_property
    def pieces(self) -> TextPieces:
        """Sentencepiece model of `config.text_pieces`."""
        pieces = TextPieces.from_file(self.config.text_pieces, self.network.text_pieces)
        if len(pieces) > self.vocabulary.text_pieces:
            raise ValueError(
                f"config.text_pieces has {len(pieces)} pieces, but config.model.vocab_size leaves room for "
                f"{self.vocabulary.text_pieces} beside image codes and special tokens: set it to "
                f"{self.network.vocab_size + len(pieces) - self.vocabulary.text_pieces}."
            )
        return pieces

    @cached_property
    def clusters(self) -> Clusters:
        """Clusters stored beside the tokenizer."""
        file = open_source(self.config.tokenizer, "config.tokenizer").file(FILE)
        return load_clusters(file, codebook_rows(self.tokenizer, self.tokenizers["tokenizer"].params))

    @property
    def tokenize(self) -> Tokenize:  # type: ignore[override]
        """Encoding by the sentencepiece model; captions that are too long are cut."""
        return self.pieces.encode_cut

    def tokenizer_hashes(self) -> Mapping[str, str]:
        pieces_hash = hashlib.sha256(self.pieces.serialize()).hexdigest()
        return {**super().tokenizer_hashes(), "text_pieces": pieces_hash}

    def batch_shapes(self) -> Batch:
        return {**super().batch_shapes(), **self.caption_shapes(self.network.text_pieces)}

    @property
    def uses_clusters(self) -> bool:
        """Whether `config.sampling` samples codes by clusters."""
        return bool(self.config.sampling.get("top_clusters"))

    def frozen(self) -> Any:
        frozen = {"tokenizers": self.frozen_tokenizers()}
        return {**frozen, "clusters": self.clusters.of_code} if self.uses_clusters else frozen

    def frozen_shapes(self) -> Any:
        shapes = {"tokenizers": self.tokenizer_shapes()}
        if not self.uses_clusters:
            return shapes
        return {**shapes, "clusters": jax.ShapeDtypeStruct((self.tokenizer.codebook_size,), jnp.int32)}

    def code_sampling(self, frozen: Any) -> Sampling:
        """Sampling of image codes according to `config.sampling`."""
        given = self.config.sampling
        sampling = Sampling(given.temperature, given.top_k, given.top_p if given.top_p < 1 else None)
        if not given.top_clusters:
            return sampling
        return sampling.replace(  # type: ignore[attr-defined]
            clusters=frozen["clusters"],
            num_clusters=len(self.clusters),
            top_clusters=given.top_clusters,
            inner_temperature=given.inner_temperature,
        )

    def decode(self, frozen: Any, tokens: Int[Array, "b n"], grid: tuple[int, int]) -> Array:
        """Decodes image codes to uint8 images."""
        params = frozen["tokenizers"]["tokenizer"]
        tokens = rearrange(tokens, "b (h w) -> b h w", h=grid[0])
        return from_unit_range(self.tokenizer.decode(params, tokens))


class CogLMTask(CogViewTask):
    """Training of CogLM: next-token prediction on three kinds of sequences of images and captions."""

    sampling_params = CogLMSampling
    config_defaults: ClassVar[Mapping[str, Any]] = {
        **CogViewTask.config_defaults,
        "sampling": CogLMSampling().to_dict(),
    }

    def __init__(self, config: Any):
        self.shares = check_loss_keys(config, LOSS)
        super().__init__(config, CogLM)
        side = self.check_grid(config.data.image_size)
        for name in ("image_to_text", "text_only", "patch_share"):
            if not 0 <= self.shares[name] <= 1:
                raise ValueError(f"config.loss.{name} is {self.shares[name]}: it must be between 0 and 1.")
        if not 2 <= self.shares["patch"] <= side:  # a patch of one token predicts nothing
            raise ValueError(f"config.loss.patch is {self.shares['patch']}: it must be between 2 and {side}.")

    def features(self, frozen: Any, image: Array) -> dict[str, Array]:
        """Encodes uint8 images."""
        return {"tokens": encode(self.tokenizer, frozen["tokenizers"]["tokenizer"], to_unit_range(image))}

    def inputs(
        self, frozen: Any, batch: Batch
    ) -> tuple[Int[Array, "b n"], Int[Array, "b t"], Bool[Array, "b t"]]:
        """Image codes, text pieces and their mask."""
        tokens = batch["tokens"] if "tokens" in batch else self.features(frozen, batch["image"])["tokens"]
        return tokens, batch["caption_ids"], batch["caption_mask"]

    def init(self, key: Array) -> Any:
        tokens = jnp.zeros((1, self.network.length), jnp.int32)
        return self.network.init(key, tokens, tokens, method="hidden")["params"]

    def samples(
        self, key: Array, image: Int[Array, "b n"], text: Int[Array, "b t"], text_mask: Bool[Array, "b t"]
    ) -> Sequence:
        """Makes a sequence of a random kind from each pair; each batch has the configured shares of kinds."""
        kind_key, order_key, patch_key, span_key = jax.random.split(key, 4)
        batch, shares = len(image), self.shares
        place = jax.random.permutation(order_key, batch) + jax.random.uniform(kind_key, (batch,))
        pair = (place / batch - shares["text_only"]) / max(1 - shares["text_only"], 1e-6)
        kind = jnp.where(pair < 0, 2, jnp.where(pair < shares["image_to_text"], 1, 0))
        patches = draw_patches(patch_key, batch, self.network.grid, shares["patch"], shares["patch_share"])
        spans = draw_spans(span_key, text_mask)
        words = (self.vocabulary, text, text_mask)
        kinds = (
            text_to_image(*words, image),
            image_to_text(*words, image, *patches),
            text_only(*words, image.shape[1], *spans),
        )
        return select(kind, kinds)

    def loss(self, params: Any, frozen: Any, batch: Batch, key: Array, step: Array):
        sample_key, dropout_key = jax.random.split(key)
        sequence = self.samples(sample_key, *self.inputs(frozen, batch))
        variables, rngs = {"params": params}, {"dropout": dropout_key}
        hidden = self.network.apply(
            variables, sequence.tokens, sequence.ranks, deterministic=False, rngs=rngs, method="hidden"
        )
        losses = self.network.apply(variables, hidden, sequence.labels, method="cross_entropy")
        image = sequence.labels < self.vocabulary.image_codes
        return mean_over(losses, sequence.loss), {
            "image_cross_entropy": mean_over(losses, sequence.loss & image),
            "text_cross_entropy": mean_over(losses, sequence.loss & ~image),
            "weight": jnp.sum(sequence.loss),
        }

    def evaluate(self, params: Any, frozen: Any, batch: Batch, keys: Array) -> dict[str, Sums]:
        """Cross-entropy of image tokens given the caption, and of text pieces given the image."""
        image, text, text_mask = self.inputs(frozen, batch)
        sequence = text_to_image(self.vocabulary, text, text_mask, image)
        variables = {"params": params}
        hidden = self.network.apply(variables, sequence.tokens, sequence.ranks, method="hidden")
        losses = self.network.apply(variables, hidden, sequence.labels, method="cross_entropy")
        model = BoundCogLM(self.network, params, self.vocabulary)
        captions = caption_cross_entropy(model, text, text_mask, image)
        pieces = jnp.sum(text_mask, axis=1)
        return {
            "image_cross_entropy": sums_over(losses, sequence.loss),
            "text_cross_entropy": (captions * pieces, pieces),
        }

    def sample(self, params: Any, frozen: Any, batch: Batch, key: Array) -> UInt8[Array, "b h w 3"]:
        """Generates images for the captions of a batch with `config.sampling`."""
        return self.decode(frozen, self.sample_tokens(params, frozen, batch, key), self.network.grid)

    def sample_tokens(self, params: Any, frozen: Any, batch: Batch, key: Array) -> Int[Array, "b n"]:
        """Generates image codes for the captions of a batch."""
        return sample_image_tokens(
            BoundCogLM(self.network, params, self.vocabulary),
            batch["caption_ids"],
            batch["caption_mask"],
            key,
            sampling=self.code_sampling(frozen),
            text_weight=self.config.sampling.text_weight,
        )

    def preview(self, params: Any, frozen: Any, batch: Batch, key: Array) -> dict[str, Array]:
        """Reconstructions of images of the batch, followed by samples for the same captions."""
        batch = {name: value[:PREVIEW_IMAGES] for name, value in batch.items()}
        image, *_ = self.inputs(frozen, batch)
        generated = self.sample_tokens(params, frozen, batch, key)
        return {"samples": self.decode(frozen, jnp.concatenate([image, generated]), self.network.grid)}


def mean_over(losses: Float[Array, "b n"], where: Bool[Array, "b n"]) -> Float[Array, ""]:
    """Mean of the losses where `where` is True; 0 if it never is."""
    return jnp.sum(losses * where) / jnp.maximum(jnp.sum(where), 1)


def sums_over(losses: Float[Array, "b n"], where: Bool[Array, "b n"]) -> Sums:
    """Sum and number of the losses where `where` is True, for each example."""
    return jnp.sum(losses * where, axis=1), jnp.sum(where, axis=1)
