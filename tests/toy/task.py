"""Training of the toy system."""

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.sampling.params import TokenSampling
from muse_jax.systems.token_task import TokenTask, encode
from muse_jax.tokenizers import token_grid
from muse_jax.training.features import Origins
from muse_jax.training.task import PREVIEW_IMAGES, Batch, Sums, build, check_loss_keys
from tests.toy.network import BagOfWords
from tests.toy.words import BUCKETS, LENGTH, words


class BagOfWordsTask(TokenTask):
    """Cross-entropy of every token of the image."""

    config_defaults: ClassVar[Mapping[str, Any]] = {
        **TokenTask.config_defaults,
        "sampling": TokenSampling().to_dict(),
    }
    sampling_params = TokenSampling
    tokenize = staticmethod(words)

    def __init__(self, config: Any):
        super().__init__(config)
        check_loss_keys(config, {})
        self.network = build(BagOfWords, "model", config.model)
        self.tokenizer = self.tokenizers["tokenizer"].module

    def text_origins(self) -> Origins:
        return {"words": ("crc32", hashlib.sha256(f"{BUCKETS} {LENGTH}".encode()).hexdigest())}

    def features(self, frozen: Any, image: jax.Array) -> dict[str, jax.Array]:
        params = frozen["tokenizers"]["tokenizer"]
        return {"tokens": encode(self.tokenizer, params, to_unit_range(image))}

    def batch_shapes(self) -> Batch:
        return {**super().batch_shapes(), **self.caption_shapes(LENGTH)}

    def frozen(self) -> Any:
        return {"tokenizers": self.frozen_tokenizers()}

    def init(self, key: jax.Array) -> Any:
        return self.network.init(key, *self.network.example_inputs())["params"]

    def losses(self, params: Any, frozen: Any, batch: Batch) -> jax.Array:
        """Cross-entropy in nats of each token."""
        tokens = batch["tokens"] if "tokens" in batch else self.features(frozen, batch["image"])["tokens"]
        logits = self.network.apply({"params": params}, batch["caption_ids"], batch["caption_mask"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens)

    def loss(self, params: Any, frozen: Any, batch: Batch, key: jax.Array, step: Any) -> Any:
        return jnp.mean(self.losses(params, frozen, batch)), {}

    def evaluate(self, params: Any, frozen: Any, batch: Batch, keys: jax.Array) -> dict[str, Sums]:
        losses = self.losses(params, frozen, batch)
        return {"cross_entropy": (jnp.sum(losses, axis=1), jnp.full(len(losses), losses.shape[1]))}

    def sample(self, params: Any, frozen: Any, batch: Batch, key: jax.Array) -> jax.Array:
        """uint8 images of the captions."""
        logits = self.network.apply({"params": params}, batch["caption_ids"], batch["caption_mask"])
        tokens = token_grid(jax.random.categorical(key, logits), self.network.grid, 1)
        return from_unit_range(self.tokenizer.decode(frozen["tokenizers"]["tokenizer"], tokens))

    def preview(self, params: Any, frozen: Any, batch: Batch, key: jax.Array) -> dict[str, Any]:
        batch = {name: value[:PREVIEW_IMAGES] for name, value in batch.items()}
        return {"samples": self.sample(params, frozen, batch, key)}
