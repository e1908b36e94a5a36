"""Training of the masked transformers: Muse's base (section 2.4) and super-resolution (2.5) networks."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import reduce
from jaxtyping import Array, Bool, Float, Int, UInt8

from muse_jax.config_keys import one_of
from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.nn.positions import entry_grid
from muse_jax.sampling import guided_logits_fn, masked_decode, sample_mask
from muse_jax.sampling.params import MaskedSampling
from muse_jax.systems.muse.masked_transformer import MaskedTransformer
from muse_jax.systems.muse.superres_transformer import SuperResTransformer
from muse_jax.systems.text_states_task import TextStatesTask
from muse_jax.systems.token_task import TokenTask, encode
from muse_jax.tokenizers import token_grid
from muse_jax.training.config_checks import check_limits
from muse_jax.training.features import Origins
from muse_jax.training.task import PREVIEW_IMAGES, Batch, Sums, build, check_loss_keys

LOSS = {"label_smoothing": 0.1, "text_dropout": 0.1}


def masked_cross_entropy(
    logits: Float[Array, "b n vocab"],
    targets: Int[Array, "b n"],
    masked: Bool[Array, "b n"],
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Mean cross-entropy in nats over the masked tokens of the batch (MaskGIT, eq. 2).

    All masked tokens have equal weight; MaskGIT's public code averages each sample first.
    """
    losses = token_cross_entropy(logits, targets, label_smoothing)
    return jnp.sum(losses * masked) / jnp.maximum(jnp.sum(masked), 1)


def token_cross_entropy(
    logits: Float[Array, "b n vocab"], targets: Int[Array, "b n"], label_smoothing: float = 0.0
) -> Float[Array, "b n"]:
    """Cross-entropy in nats of each token.

    The target distribution has `1 - label_smoothing` on the token and the rest spread over the vocabulary.
    """
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    hit = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    return -(1 - label_smoothing) * hit - label_smoothing * jnp.mean(log_probs, axis=-1)


class MaskedTask(TextStatesTask):
    """Base of the tasks of masked transformers: text, masks, loss and preview.

    Batches contain either images and captions, which the frozen tokenizers and text encoder encode inside the
    compiled step, or precomputed tokens and, with `config.data.text_features="states"`, text states
    (`config.data.features`).
    """

    network: MaskedTransformer | SuperResTransformer
    learned_tokenizer: ClassVar[str]
    """Config key of the tokenizer whose tokens are predicted."""
    sampling_params = MaskedSampling
    config_defaults: ClassVar[Mapping[str, Any]] = {
        **TextStatesTask.config_defaults,
        "data": {"features": "", "text_features": "states", "text_encoder": "minilm"},
        "sampling": MaskedSampling().to_dict(),
    }
    loss_defaults: dict[str, float] = LOSS

    def __init__(self, config: Any):
        super().__init__(config)
        self.weights = check_loss_keys(config, self.loss_defaults)
        self.check_text_dim()

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Checks the kind of text features."""
        one_of("data.text_features", config["data"]["text_features"], ("states", "ids"))

    @property
    def tokenizer(self) -> Any:
        """Tokenizer whose tokens are predicted."""
        return self.tokenizers[self.learned_tokenizer].module

    def text_origins(self) -> Origins:
        encoder = self.text_encoder
        content = encoder.content_hash(weights=self.config.data.text_features == "states")
        return {"data.text_encoder": (encoder.name, content)}

    def text_features(self, captions: Sequence[str], progress: Any = None) -> dict[str, np.ndarray]:
        """Token ids or text states of captions, according to `config.data.text_features`."""
        if self.config.data.text_features == "ids":
            return TokenTask.text_features(self, captions)
        return super().text_features(captions, progress)

    @property
    def reads_states(self) -> bool:
        return super().reads_states and self.config.data.text_features == "states"

    def inputs(self, frozen: Any, batch: Batch) -> tuple[Array, tuple[Array, ...], Array, Array]:
        """`(tokens, conditions other than text, text states, text mask)`."""
        tokens = batch if "tokens" in batch else self.features(frozen, batch["image"])
        return *self.split_tokens(tokens), *self.text(frozen, batch)

    def split_tokens(self, tokens: Any) -> tuple[Array, tuple[Array, ...]]:
        """The predicted tokens, and the tokens that condition them."""
        raise NotImplementedError

    def init(self, key: Array) -> Any:
        model = self.config.model
        text = jnp.zeros((1, self.text_encoder.max_length, model.text_dim))
        tokens = [jnp.zeros((1, count), jnp.int32) for count in self.token_counts()]
        return self.network.init(key, *tokens, text, jnp.ones(text.shape[:2], bool))["params"]

    def token_counts(self) -> list[int]:
        """Lengths of the network's token inputs."""
        raise NotImplementedError

    def loss(self, params: Any, frozen: Any, batch: Batch, key: Array, step: Array):
        mask_key, text_key, dropout_key = jax.random.split(key, 3)
        tokens, given, states, text_mask = self.inputs(frozen, batch)
        given = self.corrupt(given, jax.random.fold_in(key, 3))
        drop = jax.random.bernoulli(text_key, self.weights["text_dropout"], (tokens.shape[0], 1))
        states = jnp.where(drop[..., None], frozen["null_text"], states)
        text_mask = jnp.where(drop, frozen["null_mask"], text_mask)
        masked = sample_mask(mask_key, *tokens.shape)
        logits = self.network.apply(
            {"params": params},
            jnp.where(masked, self.network.vocab_size, tokens),
            *given,
            states,
            text_mask,
            deterministic=False,
            rngs={"dropout": dropout_key},
        )
        loss = masked_cross_entropy(logits, tokens, masked, self.weights["label_smoothing"])
        return loss, {**self.scores(logits, tokens, masked), "weight": jnp.sum(masked)}

    def corrupt(self, given: tuple[Array, ...], key: Array) -> tuple[Array, ...]:
        """Adds noise to the conditioning tokens in training."""
        return given

    def scores(self, logits: Array, tokens: Array, masked: Array) -> dict[str, Array]:
        """Cross-entropy without smoothing and accuracy on the masked tokens."""
        right = (jnp.argmax(logits, -1) == tokens) & masked
        return {
            "cross_entropy": masked_cross_entropy(logits, tokens, masked),
            "accuracy": jnp.sum(right) / jnp.sum(masked),
        }

    def evaluate(self, params: Any, frozen: Any, batch: Batch, keys: Array) -> dict[str, Sums]:
        """Cross-entropy without smoothing and accuracy on the masked tokens of each image."""
        tokens, given, states, text_mask = self.inputs(frozen, batch)
        masked = jax.vmap(lambda key: sample_mask(key, 1, tokens.shape[1])[0])(keys)
        hidden = jnp.where(masked, self.network.vocab_size, tokens)
        logits = self.network.apply({"params": params}, hidden, *given, states, text_mask)
        count = jnp.sum(masked, axis=1)
        losses, right = token_cross_entropy(logits, tokens), jnp.argmax(logits, -1) == tokens
        return {
            "cross_entropy": (jnp.sum(losses * masked, axis=1), count),
            "accuracy": (jnp.sum(right & masked, axis=1), count),
        }

    def sample(self, params: Any, frozen: Any, batch: Batch, key: Array) -> UInt8[Array, "b h w 3"]:
        """Generates images for the captions of a batch with `config.sampling`."""
        return self.decode(frozen, self.sample_tokens(params, frozen, batch, key))

    def sample_tokens(self, params: Any, frozen: Any, batch: Batch, key: Array) -> Int[Array, "b n"]:
        """Generates flat tokens for the captions of a batch."""
        tokens, given, states, text_mask = self.inputs(frozen, batch)
        sampling = self.config.sampling
        logits_fn = guided_logits_fn(
            lambda params, *arguments: self.network.apply(
                {"params": params}, *arguments, method="linear_logits"
            ),
            params,
            (*given, states, text_mask),
            (*given, frozen["null_text"], frozen["null_mask"]),
            sampling.guidance_scale,
        )
        return masked_decode(
            logits_fn,
            jnp.full_like(tokens, self.network.vocab_size),
            key,
            mask_id=self.network.vocab_size,
            num_steps=sampling.num_steps,
            temperature=sampling.temperature,
            choice_temperature=sampling.choice_temperature,
            order=sampling.order,
            grid=entry_grid(self.network),
        )

    def decode(self, frozen: Any, tokens: Int[Array, "b n"]) -> UInt8[Array, "b h w 3"]:
        """Decodes flat tokens to images."""
        params = frozen["tokenizers"][self.learned_tokenizer]
        grid = token_grid(tokens, self.network.grid, self.network.groups)
        return from_unit_range(self.tokenizer.decode(params, grid))

    def preview(self, params: Any, frozen: Any, batch: Batch, key: Array) -> dict[str, Array]:
        """Reconstructions of images of the batch, followed by samples for the same captions."""
        batch = {name: value[:PREVIEW_IMAGES] for name, value in batch.items()}
        tokens, *_ = self.inputs(frozen, batch)
        generated = self.sample_tokens(params, frozen, batch, key)
        return {"samples": self.decode(frozen, jnp.concatenate([tokens, generated]))}


class BaseTask(MaskedTask):
    """Training of the base network: tokens of an image from its caption."""

    learned_tokenizer = "tokenizer"

    def __init__(self, config: Any):
        self.network = build(MaskedTransformer, "model", config.model)
        super().__init__(config)
        self.check_tokenizer("tokenizer", "vocab_size", "grid", config.data.image_size)

    def token_counts(self) -> list[int]:
        return [self.network.num_tokens]

    def features(self, frozen: Any, image: Array) -> dict[str, Array]:
        params = frozen["tokenizers"]["tokenizer"]
        return {"tokens": encode(self.tokenizer, params, to_unit_range(image))}

    def split_tokens(self, tokens: Any) -> tuple[Array, tuple[Array, ...]]:
        return tokens["tokens"], ()


class SuperResTask(MaskedTask):
    """Training of super-resolution: tokens of a large image from its caption and the tokens of a small image.

    The small image is the mean of the large one over squares of `config.data.superres_factor` pixels. In
    training, a random share of its tokens, at most `config.loss.low_noise`, is replaced by random codes, so
    that the network becomes robust to errors of the base network (compare the noise conditioning of Ho et al.
    2022).
    """

    learned_tokenizer = "superres_tokenizer"
    config_defaults: ClassVar[Mapping[str, Any]] = {
        **MaskedTask.config_defaults,
        "superres_tokenizer": "",
        "data": {**MaskedTask.config_defaults["data"], "superres_factor": 2},
    }
    loss_defaults = {**LOSS, "low_noise": 0.0}

    def __init__(self, config: Any):
        self.network = build(SuperResTransformer, "model", config.model)
        super().__init__(config)
        size = config.data.image_size
        self.factor = config.data.superres_factor
        self.check_tokenizer("superres_tokenizer", "vocab_size", "grid", size)
        self.check_tokenizer("tokenizer", "low_vocab_size", "low_grid", size // self.factor)

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Also checks that the factor is at least 2."""
        super().check_config(config)
        check_limits(config, {"data.superres_factor": (2, float("inf"))})

    def token_counts(self) -> list[int]:
        return [self.network.num_tokens, self.network.num_low_tokens]

    def features(self, frozen: Any, image: Array) -> dict[str, Array]:
        params = frozen["tokenizers"]
        high = to_unit_range(image)
        low = reduce(high, "b (h p) (w q) c -> b h w c", "mean", p=self.factor, q=self.factor)
        return {
            "tokens": encode(self.tokenizers["tokenizer"].module, params["tokenizer"], low),
            "superres_tokens": encode(self.tokenizer, params["superres_tokenizer"], high),
        }

    def split_tokens(self, tokens: Any) -> tuple[Array, tuple[Array, ...]]:
        return tokens["superres_tokens"], (tokens["tokens"],)

    def corrupt(self, given: tuple[Array, ...], key: Array) -> tuple[Array, ...]:
        (low,) = given
        share_key, place_key, code_key = jax.random.split(key, 3)
        share = self.weights["low_noise"] * jax.random.uniform(share_key, (len(low), 1))
        wrong = jax.random.bernoulli(place_key, share, low.shape)
        codes = jax.random.randint(code_key, low.shape, 0, self.network.low_vocab_size)
        return (jnp.where(wrong, codes, low),)
