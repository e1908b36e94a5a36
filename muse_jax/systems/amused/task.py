"""Fine-tuning of aMUSEd on images and captions (diffusers' `train_amused`)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from muse_jax.checkpointing.source import open_source
from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.nn.shapes import parameter_shapes
from muse_jax.sampling import sample_mask
from muse_jax.systems.amused.programs import Condition, guided_logits, micro_conditions
from muse_jax.systems.amused.sampling import AmusedSampling, amused_decode
from muse_jax.systems.amused.text import PromptEncoder, encode_prompts
from muse_jax.systems.amused.uvit import UVit2D
from muse_jax.systems.token_task import TokenTask, encode
from muse_jax.tokenizers import token_grid
from muse_jax.training.features import Origins
from muse_jax.training.task import PREVIEW_IMAGES, Batch, Sums, build, check_loss_keys

LOSS = {"text_dropout": 0.1}


class FinetuneTask(TokenTask):
    """Masked tokens of an image from its caption: cross-entropy, masks by the cosine schedule.

    `config.tokenizer` and `config.text_encoder` name the converted checkpoint whose frozen parts are used,
    and `config.init_from` the one whose transformer is fine-tuned. Every image has the micro-conditions that
    `config.sampling` and `config.data.image_size` describe.
    """

    sampling_params = AmusedSampling
    config_defaults: ClassVar[Mapping[str, Any]] = {
        **TokenTask.config_defaults,
        "text_encoder": "",
        "sampling": AmusedSampling().to_dict(),
    }

    def __init__(self, config: Any):
        super().__init__(config)
        self.weights = check_loss_keys(config, LOSS)
        self.network = build(UVit2D, "model", config.model)
        self.tokenizer = self.tokenizers["tokenizer"].module
        self.check_tokenizer("tokenizer", "codebook_size", "grid", config.data.image_size)

    @cached_property
    def described_encoder(self) -> PromptEncoder:
        """The text encoder without its weights."""
        return PromptEncoder.described(open_source(self.config.text_encoder, "config.text_encoder"))

    @cached_property
    def prompt_encoder(self) -> PromptEncoder:
        """The text encoder."""
        return PromptEncoder.from_source(open_source(self.config.text_encoder, "config.text_encoder"))

    def tokenize(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask of captions."""
        return self.prompt_encoder.tokenize(texts)

    def text_origins(self) -> Origins:
        encoder = self.prompt_encoder
        return {"text_encoder": (self.config.text_encoder, encoder.content_hash())}

    def frozen(self) -> Any:
        encoder = self.prompt_encoder
        null = jax.jit(encode_prompts, static_argnums=0)(
            encoder.module, encoder.params, *encoder.tokenize([""])
        )
        return {"tokenizers": self.frozen_tokenizers(), "text": encoder.params, "null": null}

    def frozen_shapes(self) -> Any:
        text = self.described_encoder.module
        states = jax.ShapeDtypeStruct((1, text.max_positions, text.width), jnp.float32)
        pooled = jax.ShapeDtypeStruct((1, text.projection), jnp.float32)
        return {
            "tokenizers": self.tokenizer_shapes(),
            "text": parameter_shapes(text),
            "null": (states, pooled),
        }

    def batch_shapes(self) -> Batch:
        return {**super().batch_shapes(), **self.caption_shapes(self.described_encoder.max_length)}

    def features(self, frozen: Any, image: Array) -> dict[str, Array]:
        params = frozen["tokenizers"]["tokenizer"]
        return {"tokens": encode(self.tokenizer, params, to_unit_range(image))}

    def init(self, key: Array) -> Any:
        return self.network.init(key, *self.network.example_inputs())["params"]

    def tokens(self, frozen: Any, batch: Batch) -> Int[Array, "b n"]:
        """Flat tokens of a batch."""
        return batch["tokens"] if "tokens" in batch else self.features(frozen, batch["image"])["tokens"]

    def condition(self, frozen: Any, batch: Batch) -> Condition:
        """Text states and pooled embeddings of a batch."""
        module = self.described_encoder.module
        states = encode_prompts(module, frozen["text"], batch["caption_ids"], batch["caption_mask"])
        return jax.lax.stop_gradient(states)

    def losses(
        self, params: Any, tokens: Int[Array, "b n"], masked: Array, condition: Condition
    ) -> tuple[Float[Array, "b n"], Array]:
        """Cross-entropy in nats of each token, and whether it is the most probable one."""
        size = self.config.data.image_size
        micro = micro_conditions(self.config.sampling, (size, size), len(tokens))
        hidden = jnp.where(masked, self.network.mask_id, tokens)
        logits = self.network.apply({"params": params}, hidden, *condition, micro)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
        return losses, jnp.argmax(logits, -1) == tokens

    def loss(
        self, params: Any, frozen: Any, batch: Batch, key: Array, step: Any
    ) -> tuple[Array, dict[str, Array]]:
        mask_key, text_key = jax.random.split(key)
        tokens, given = self.tokens(frozen, batch), self.condition(frozen, batch)
        drop = jax.random.bernoulli(text_key, self.weights["text_dropout"], (len(tokens), 1))
        condition = (
            jnp.where(drop[..., None], frozen["null"][0], given[0]),
            jnp.where(drop, frozen["null"][1], given[1]),
        )
        masked = sample_mask(mask_key, *tokens.shape)
        losses, right = self.losses(params, tokens, masked, condition)
        count = jnp.sum(masked)
        accuracy = jnp.sum(right & masked) / count
        return jnp.sum(losses * masked) / count, {"accuracy": accuracy, "weight": count}

    def evaluate(self, params: Any, frozen: Any, batch: Batch, keys: Array) -> dict[str, Sums]:
        """Cross-entropy and accuracy over each image's masked tokens."""
        tokens = self.tokens(frozen, batch)
        masked = jax.vmap(lambda key: sample_mask(key, 1, tokens.shape[1])[0])(keys)
        losses, right = self.losses(params, tokens, masked, self.condition(frozen, batch))
        count = jnp.sum(masked, axis=1)
        return {
            "cross_entropy": (jnp.sum(losses * masked, axis=1), count),
            "accuracy": (jnp.sum(right & masked, axis=1), count),
        }

    def sample(self, params: Any, frozen: Any, batch: Batch, key: Array) -> UInt8[Array, "b h w 3"]:
        """Images generated for the captions of a batch, by `config.sampling`."""
        return self.decode(frozen, self.sample_tokens(params, frozen, batch, key))

    def sample_tokens(self, params: Any, frozen: Any, batch: Batch, key: Array) -> Int[Array, "b n"]:
        """Flat tokens generated for the captions of a batch."""
        size, sampling = self.config.data.image_size, self.config.sampling
        given = self.condition(frozen, batch)
        logits_fn = guided_logits(self.network, params, given, frozen["null"], sampling, (size, size))
        return amused_decode(
            logits_fn,
            jnp.full((len(given[0]), self.network.num_tokens), self.network.mask_id),
            key,
            mask_id=self.network.mask_id,
            num_steps=sampling.num_steps,
            choice_temperature=sampling.choice_temperature,
        )

    def decode(self, frozen: Any, tokens: Int[Array, "b n"]) -> UInt8[Array, "b h w 3"]:
        """Images of flat tokens."""
        params = frozen["tokenizers"]["tokenizer"]
        return from_unit_range(self.tokenizer.decode(params, token_grid(tokens, self.network.grid, 1)))

    def preview(self, params: Any, frozen: Any, batch: Batch, key: Array) -> dict[str, Array]:
        """Reconstructions of the batch's images, followed by samples for the same captions."""
        batch = {name: value[:PREVIEW_IMAGES] for name, value in batch.items()}
        tokens = self.tokens(frozen, batch)
        generated = self.sample_tokens(params, frozen, batch, key)
        return {"samples": self.decode(frozen, jnp.concatenate([tokens, generated]))}
