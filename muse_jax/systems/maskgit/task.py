"""Training of MaskGIT's class-conditional transformer (Chang et al. 2022, section 3.1)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.sampling import sample_mask
from muse_jax.systems.maskgit.pipeline import MaskGITSampling, check_classes, draw
from muse_jax.systems.maskgit.transformer import ClassTransformer
from muse_jax.systems.token_task import TokenTask, encode
from muse_jax.tokenizers import token_grid
from muse_jax.training.features import Origins
from muse_jax.training.task import PREVIEW_IMAGES, Batch, Sums, build, check_loss_keys

LOSS = {"label_smoothing": 0.1}


class ClassTask(TokenTask):
    """Masked tokens of an image from its class.

    The class is the `label` of a TFDS data set, or the caption of an image in a folder: a number.
    """

    sampling_params = MaskGITSampling
    config_defaults: ClassVar[Mapping[str, Any]] = {
        **TokenTask.config_defaults,
        "sampling": MaskGITSampling().to_dict(),
    }

    def __init__(self, config: Any):
        super().__init__(config)
        self.weights = check_loss_keys(config, LOSS)
        self.network = build(ClassTransformer, "model", config.model)
        self.tokenizer = self.tokenizers["tokenizer"].module
        self.check_tokenizer("tokenizer", "vocab_size", "grid", config.data.image_size)

    def tokenize(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of classes as one token each."""
        ids = check_classes(list(texts), self.network.num_classes)[:, None]
        return ids, np.ones(ids.shape, bool)

    def read(self, split: str, seed: int, rows: Any = None, **changes: Any) -> Iterator[Batch]:
        """As `Task.read`, with the number of the class as the caption."""
        return super().read(split, seed, rows, **{**changes, "caption": class_caption})

    def text_origins(self) -> Origins:
        return {"model.num_classes": (str(self.network.num_classes), "")}

    def frozen(self) -> Any:
        return {"tokenizers": self.frozen_tokenizers()}

    def batch_shapes(self) -> Batch:
        return {**super().batch_shapes(), **self.caption_shapes(1)}

    def features(self, frozen: Any, image: Array) -> dict[str, Array]:
        params = frozen["tokenizers"]["tokenizer"]
        return {"tokens": encode(self.tokenizer, params, to_unit_range(image))}

    def init(self, key: Array) -> Any:
        return self.network.init(key, *self.network.example_inputs())["params"]

    def tokens(self, frozen: Any, batch: Batch) -> Int[Array, "b n"]:
        """Flat tokens of a batch."""
        return batch["tokens"] if "tokens" in batch else self.features(frozen, batch["image"])["tokens"]

    def logits(self, params: Any, tokens: Array, masked: Array, batch: Batch, **more: Any) -> Array:
        """Logits of all tokens from those that are not masked."""
        hidden = jnp.where(masked, self.network.mask_id, tokens)
        return self.network.apply({"params": params}, hidden, batch["caption_ids"][:, 0], **more)

    def loss(
        self, params: Any, frozen: Any, batch: Batch, key: Array, step: Any
    ) -> tuple[Array, dict[str, Array]]:
        mask_key, dropout_key = jax.random.split(key)
        tokens = self.tokens(frozen, batch)
        masked = sample_mask(mask_key, *tokens.shape)
        options = {"deterministic": False, "rngs": {"dropout": dropout_key}}
        logits = self.logits(params, tokens, masked, batch, **options)
        losses, smooth = cross_entropy(logits, tokens), self.weights["label_smoothing"]
        uniform = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
        count = jnp.sum(masked)
        right = (jnp.argmax(logits, -1) == tokens) & masked
        scores = {"cross_entropy": jnp.sum(losses * masked) / count, "accuracy": jnp.sum(right) / count}
        loss = jnp.sum(((1 - smooth) * losses + smooth * uniform) * masked) / count
        return loss, {**scores, "weight": count}

    def evaluate(self, params: Any, frozen: Any, batch: Batch, keys: Array) -> dict[str, Sums]:
        """Cross-entropy without smoothing and accuracy, over each image's masked tokens."""
        tokens = self.tokens(frozen, batch)
        masked = jax.vmap(lambda key: sample_mask(key, 1, tokens.shape[1])[0])(keys)
        logits, count = self.logits(params, tokens, masked, batch), jnp.sum(masked, axis=1)
        right = (jnp.argmax(logits, -1) == tokens) & masked
        return {
            "cross_entropy": (jnp.sum(cross_entropy(logits, tokens) * masked, axis=1), count),
            "accuracy": (jnp.sum(right, axis=1), count),
        }

    def sample(self, params: Any, frozen: Any, batch: Batch, key: Array) -> UInt8[Array, "b h w 3"]:
        """Images generated for the classes of a batch, by `config.sampling`."""
        return self.decode(frozen, self.sample_tokens(params, batch, key))

    def sample_tokens(self, params: Any, batch: Batch, key: Array) -> Int[Array, "b n"]:
        """Flat tokens generated for the classes of a batch."""
        classes = batch["caption_ids"][:, 0]
        tokens = jnp.full((len(classes), self.network.num_tokens), self.network.mask_id)
        return draw(self.network, params, classes, tokens, key, self.config.sampling)

    def decode(self, frozen: Any, tokens: Int[Array, "b n"]) -> UInt8[Array, "b h w 3"]:
        """Images of flat tokens."""
        params = frozen["tokenizers"]["tokenizer"]
        return from_unit_range(self.tokenizer.decode(params, token_grid(tokens, self.network.grid, 1)))

    def preview(self, params: Any, frozen: Any, batch: Batch, key: Array) -> dict[str, Array]:
        """Reconstructions of the batch's images, followed by samples of the same classes."""
        batch = {name: value[:PREVIEW_IMAGES] for name, value in batch.items()}
        drawn = self.sample_tokens(params, batch, key)
        return {"samples": self.decode(frozen, jnp.concatenate([self.tokens(frozen, batch), drawn]))}


def class_caption(record: Mapping[str, Any], rng: np.random.Generator) -> str:
    """The number of a record's class: its label, or its caption."""
    return str(int(record["label"])) if "label" in record else str(record["captions"][0])


def cross_entropy(logits: Float[Array, "b n vocab"], tokens: Int[Array, "b n"]) -> Float[Array, "b n"]:
    """Cross-entropy in nats of each token."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
