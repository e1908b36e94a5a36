"""Training of NUWA: text to image, video prediction and text to video at once (arXiv 2111.12417, 3.4)."""

import functools
import operator
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, UInt8

from muse_jax.checkpointing.source import Weights, open_source
from muse_jax.media import Images, Medium, Modality, Video
from muse_jax.media.image import ImageModality, from_unit_range, to_unit_range
from muse_jax.media.video import VideoModality
from muse_jax.nn.shapes import parameter_shapes
from muse_jax.sampling.schedules import sample_mask
from muse_jax.systems.nuwa.checks import check_candidates
from muse_jax.systems.nuwa.ranker import best_clips, repeat_rows
from muse_jax.systems.nuwa.sampling import Draw, NuwaSampling, draw_tokens
from muse_jax.systems.nuwa.transformer import NuwaTransformer
from muse_jax.systems.text_states_task import TextStatesTask
from muse_jax.tokenizers.clusters import codebook_rows
from muse_jax.training.config_checks import check_limits
from muse_jax.training.task import Batch, Sums, build, check_loss_keys

PREVIEW_VIDEOS = 4
LOSS = {
    "text_to_image": 1.0,  # a random frame of each clip from its caption
    "prediction": 1.0,  # the frames after the first, without text
    "text_to_video": 1.0,
    "sketch_to_video": 1.0,  # from the sketch and the caption; for networks that read sketches
    "text_dropout": 0.1,  # share of the captions left out, for guidance
}
FEATURES = {"image": "tokens", "video": "tokens", "sketch": "sketch_tokens"}  # of each field of a batch
CLIP_OBJECTIVES = ("text_to_video", "prediction", "sketch_to_video")


class Pass(NamedTuple):
    """One call of the network: what it predicts, from which conditions.

    targets: objective -> True for the tokens that it predicts.
    """

    tokens: Int[Array, "batch tokens"]
    condition: tuple[Any, ...]
    targets: dict[str, Bool[Array, "batch tokens"]]


class NuwaTask(TextStatesTask):
    """The objectives of `config.loss`, each a mean cross-entropy over its tokens, summed by their weights.

    Objectives on whole clips share a batch: each takes an equal part of its rows. A batch comes as videos,
    sketches of them if an objective reads any, and captions; or with tokens and text states that were
    computed before (`config.data.features`). `config.data.frames` may be smaller than the number of frames
    in the network's grid: it then trains on the first frames of clips. With 1 a batch comes as images, and
    text to image is the only objective; the weights of the others have no effect.

    `config.ranker`, a run or a checkpoint, chooses among `config.sampling.num_candidates` in evaluations.
    """

    sampling_params = NuwaSampling
    config_defaults: ClassVar[Mapping[str, Any]] = {
        **TextStatesTask.config_defaults,
        "data": {**TextStatesTask.config_defaults["data"], "frames": 8, "fps": 8.0},
        "sampling": NuwaSampling().to_dict(),
        "ranker": "",
    }

    def __init__(self, config: Any):
        super().__init__(config)
        self.network: NuwaTransformer = build(NuwaTransformer, "model", config.model)
        self.weights, data = check_loss_keys(config, LOSS), config.data
        if not self.network.condition_depth:
            self.weights["sketch_to_video"] = 0.0
        if data.frames == 1:
            self.weights.update(dict.fromkeys(CLIP_OBJECTIVES, 0.0))
        self.check_text_dim()
        ranker = config.ranker and open_source(config.ranker, "config.ranker").network("ranker")
        self.ranker: Weights | None = ranker or None
        check_candidates(NuwaSampling(**config.sampling), self.ranker)
        self.tokenizer: Any = self.tokenizers["tokenizer"].module
        side = data.image_size // self.tokenizer.downsampling
        given = (self.network.vocab_size, tuple(self.network.grid), 1)
        frames = max(data.frames, self.network.grid[0])
        made = (self.tokenizer.codebook_size, (frames, side, side), self.tokenizer.groups)
        if given != made:
            raise ValueError(
                f"config.model.vocab_size and grid are {given[0]} and {given[1]}, but the tokenizer of "
                f"config.tokenizer gives {made[0]} codes in {made[2]} groups on {made[1]} for {data.frames} "
                f"frames of {data.image_size} px: set them to that."
            )
        if not self.clip_objectives and not self.weights["text_to_image"]:
            raise ValueError(
                f"config.loss gives no objective on {data.frames} frames a weight: set text_to_image above 0"
                + (", or text_to_video or prediction." if data.frames > 1 else ".")
            )
        if data.batch_size % max(len(self.clip_objectives), 1):
            raise ValueError(
                f"config.data.batch_size is {data.batch_size}, but {len(self.clip_objectives)} objectives "
                "share the clips of a batch: make it a multiple of them."
            )

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Refuses numbers that are out of range."""
        check_limits(config, {"data.frames": (1, float("inf"))})

    def frozen(self) -> Any:
        return {**super().frozen(), "ranker": {} if self.ranker is None else self.ranker.params}

    def frozen_shapes(self) -> Any:
        ranker = {} if self.ranker is None else parameter_shapes(self.ranker.module)
        return {**super().frozen_shapes(), "ranker": ranker}

    @property
    def clip_objectives(self) -> list[str]:
        """The objectives on whole clips, by turns over the rows of a batch."""
        return [name for name in CLIP_OBJECTIVES if self.weights[name]]

    @property
    def fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """The fields of a batch that become tokens."""
        if self.config.data.frames == 1:
            return ("image",)
        return ("video", "sketch") if self.weights["sketch_to_video"] else ("video",)

    def modalities(self, augment: str) -> Mapping[str, Modality]:
        data = self.config.data
        if data.frames == 1:
            return {"image": ImageModality(data.image_size, augment)}
        return {
            field: VideoModality(data.image_size, data.frames, data.fps, augment, field)
            for field in self.fields
        }

    def media_shapes(self) -> Batch:
        data = self.config.data
        frames = () if data.frames == 1 else (data.frames,)
        shape = (data.batch_size, *frames, data.image_size, data.image_size, 3)
        return dict.fromkeys(self.fields, jax.ShapeDtypeStruct(shape, jnp.uint8))

    def features(self, frozen: Any, *media: UInt8[Array, "b *frames h w 3"]) -> dict[str, Array]:
        """Flat tokens of images, or of videos and sketches, frame by frame."""
        fields = zip(self.fields, media, strict=True)
        return {FEATURES[field]: self.encode(frozen, values) for field, values in fields}

    def encode(self, frozen: Any, clips: UInt8[Array, "b *frames h w 3"]) -> Int[Array, "b n"]:
        """Flat tokens of images or clips, frame by frame."""
        frames = to_unit_range(clips.reshape(-1, *clips.shape[-3:]))
        ids = self.tokenizer.encode(frozen["tokenizers"]["tokenizer"], frames)
        return ids.reshape(len(clips), -1)

    def init(self, key: Array) -> Any:
        return self.network.init(key, *self.network.example_inputs())["params"]

    def initialize_from_data(self, params: Any, key: Array) -> Any:
        """Starts the vectors of the codes from the tokenizer's codebook, scaled to a variance of 1.

        Further columns, if `code_dim` is larger than the codebook's vectors, stay as they are.
        """
        rows = codebook_rows(self.tokenizer, self.tokenizers["tokenizer"].params)
        rows = (rows / jnp.std(rows))[:, : self.network.code_dim]
        codebook = params["codebook"]
        return {**params, "codebook": codebook.at[: len(rows), : rows.shape[1]].set(rows)}

    def tokens(self, frozen: Any, batch: Batch, field: str = "") -> Int[Array, "b n"]:
        """Flat tokens of the images or videos of a batch, or of its `field`."""
        field = field or self.fields[0]
        stored = FEATURES[field]
        return batch[stored] if stored in batch else self.encode(frozen, batch[field])

    def null(self, frozen: Any, rows: int) -> tuple[Array, Array]:
        """States and mask of the empty text."""
        text, mask = jnp.asarray(frozen["null_text"]), jnp.asarray(frozen["null_mask"])
        return jnp.broadcast_to(text, (rows, *text.shape[1:])), jnp.broadcast_to(mask, (rows, mask.shape[1]))

    def later(self, tokens: Int[Array, "b n"], given: int = 1) -> Bool[Array, "b n"]:
        """True in the frames after the first `given`."""
        after = jnp.arange(tokens.shape[1]) >= given * self.network.frame_tokens
        return jnp.broadcast_to(after, tokens.shape)

    def grid(self, tokens: Int[Array, "b n"]) -> Int[Array, "b s h w"]:
        """Flat tokens of clips on their grid."""
        return tokens.reshape(len(tokens), *self.network.grid_of(tokens.shape[1]))

    def passes(self, frozen: Any, batch: Batch, key: Array) -> list[Pass]:
        """The predictions of a training step: frames, clips, and clips from sketches."""
        drop_key, frame_key = jax.random.split(key)
        clips, names = self.tokens(frozen, batch), self.clip_objectives
        count = len(names)
        null, text = self.null(frozen, len(clips)), self.text(frozen, batch)
        drop = jax.random.bernoulli(drop_key, self.weights["text_dropout"], (len(clips), 1))
        text = _choose(drop, null, text)
        found = []
        if self.weights["text_to_image"]:
            image = self.random_frame(clips, frame_key)
            found.append(Pass(image, text, {"text_to_image": jnp.ones(image.shape, bool)}))
        if not names:
            return found
        turn = jnp.broadcast_to(jnp.arange(len(clips))[:, None] % count, clips.shape)
        targets = {name: turn == number for number, name in enumerate(names)}
        if "prediction" in names:
            text = _choose(targets["prediction"][:, :1], null, text)
            targets["prediction"] &= self.later(clips)
        whole: Any = (clips, text, targets)
        if "sketch_to_video" in names:
            rest, last = slice(count - 1), slice(count - 1, None)
            clips, text, targets = jax.tree.map(lambda x: _rows(x, count, last), whole)
            sketches = {name: _rows(x, count, last) for name, x in batch.items() if "sketch" in name}
            sketch = self.grid(self.tokens(frozen, sketches, "sketch"))
            own = {"sketch_to_video": targets["sketch_to_video"]}
            found.append(Pass(clips, (*text, sketch), own))
            clips, text, targets = jax.tree.map(lambda x: _rows(x, count, rest), whole)
            del targets["sketch_to_video"]
        if targets:
            found.append(Pass(clips, text, targets))
        return found

    def random_frame(self, clips: Int[Array, "b n"], key: Array) -> Int[Array, "b m"]:
        """The tokens of one frame of each clip."""
        frames = clips.reshape(len(clips), -1, self.network.frame_tokens)
        chosen = jax.random.randint(key, (len(clips), 1, 1), 0, frames.shape[1])
        return jnp.take_along_axis(frames, chosen, axis=1)[:, 0]

    def losses(
        self,
        params: Any,
        tokens: Int[Array, "b n"],
        hidden: Bool[Array, "b n"] | None,
        condition: tuple[Any, ...],
        dropout_key: Any = None,
    ) -> Float[Array, "b n"]:
        """Cross-entropy in nats of each token.

        Args:
          hidden: the tokens that are masked; None for networks that are causal.
          dropout_key: None for evaluation.
        """
        inputs = tokens if hidden is None else jnp.where(hidden, self.network.vocab_size, tokens)
        rngs = {} if dropout_key is None else {"dropout": dropout_key}
        logits: Any = self.network.apply(
            {"params": params}, inputs, *condition, deterministic=dropout_key is None, rngs=rngs
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens)

    def loss(self, params: Any, frozen: Any, batch: Batch, key: Array, step: Array):
        pass_key, mask_key, dropout_key = jax.random.split(key, 3)
        scalars = {}
        for number, (tokens, condition, targets) in enumerate(self.passes(frozen, batch, pass_key)):
            hidden, key = None, jax.random.fold_in(dropout_key, number)
            if self.network.shift == "none":
                masked = sample_mask(jax.random.fold_in(mask_key, number), *tokens.shape)
                targets = {name: where & masked for name, where in targets.items()}
                hidden = functools.reduce(operator.or_, targets.values())
            losses = self.losses(params, tokens, hidden, condition, key)
            for name, where in targets.items():
                scalars[name] = jnp.sum(losses * where) / jnp.maximum(jnp.sum(where), 1)
        return sum(self.weights[name] * mean for name, mean in scalars.items()), scalars

    def evaluate(self, params: Any, frozen: Any, batch: Batch, keys: Array) -> dict[str, Sums]:
        """Cross-entropy of a video's tokens given its caption, and of its later frames given the first."""
        clips = self.tokens(frozen, batch)
        passes = [("cross_entropy", jnp.ones(clips.shape, bool), self.text(frozen, batch))]
        if self.config.data.frames > 1:
            passes.append(("prediction_cross_entropy", self.later(clips), self.null(frozen, len(clips))))
        scores = {}
        for name, targets, condition in passes:
            hidden = None
            if self.network.shift == "none":
                masked = jax.vmap(lambda key: sample_mask(key, 1, clips.shape[1])[0])(keys)
                targets = hidden = targets & masked
            losses = self.losses(params, clips, hidden, condition)
            scores[name] = jnp.sum(losses * targets, axis=1), jnp.sum(targets, axis=1)
        return scores

    def sample(self, params: Any, frozen: Any, batch: Batch, key: Array) -> UInt8[Array, "b *frames h w 3"]:
        """Images or videos generated for the captions of a batch, by `config.sampling`."""
        text, count = self.text(frozen, batch), self.config.sampling.num_candidates
        media = self.decode(frozen, self.sample_tokens(params, frozen, repeat_rows(text, count), key))
        if self.ranker is None or count == 1:
            return media
        clips = media.reshape(len(media), -1, *media.shape[-3:])
        best = best_clips(self.ranker.module, frozen["ranker"], clips, text)
        return best.reshape(-1, *media.shape[1:])

    def sample_tokens(
        self, params: Any, frozen: Any, text: tuple[Array, Array], key: Array
    ) -> Int[Array, "b n"]:
        """Flat tokens generated for states and masks of texts."""
        tokens = jnp.zeros((len(text[0]), self.config.data.frames * self.network.frame_tokens), jnp.int32)
        sampling, null = NuwaSampling(**self.config.sampling), None
        if sampling.guidance_scale:
            null = jnp.asarray(frozen["null_text"]), jnp.asarray(frozen["null_mask"])
        draw = Draw(tokens, jnp.ones(tokens.shape, bool), text, null)
        return draw_tokens(self.network, params, draw, key, sampling)

    def predict(
        self, params: Any, frozen: Any, batch: Batch, key: Array, given: int = 1
    ) -> UInt8[Array, "b s h w 3"]:
        """The videos of a batch, their later frames generated from the first `given` ones, without text."""
        clips = self.tokens(frozen, batch)
        draw = Draw(clips, self.later(clips, given), self.null(frozen, len(clips)))
        sampling = NuwaSampling(**self.config.sampling)
        return self.decode(frozen, draw_tokens(self.network, params, draw, key, sampling))

    def decode(self, frozen: Any, tokens: Int[Array, "b n"]) -> UInt8[Array, "b *frames h w 3"]:
        """Images or videos of flat tokens, frame by frame."""
        ids = rearrange(self.grid(tokens), "b s h w -> (b s) h w")
        frames = self.tokenizer.decode(frozen["tokenizers"]["tokenizer"], ids)
        if self.config.data.frames > 1:
            frames = rearrange(frames, "(b s) h w c -> b s h w c", b=len(tokens))
        return from_unit_range(frames)

    def preview(self, params: Any, frozen: Any, batch: Batch, key: Array) -> dict[str, Medium]:
        """Reconstructions of the batch's images or videos, followed by samples for the same captions."""
        batch = {name: value[:PREVIEW_VIDEOS] for name, value in batch.items()}
        clips = self.tokens(frozen, batch)
        generated = self.sample_tokens(params, frozen, self.text(frozen, batch), key)
        media = self.decode(frozen, jnp.concatenate([clips, generated]))
        still = self.config.data.frames == 1
        return {"samples": Images(media) if still else Video(media, self.config.data.fps)}


def _choose(where: Bool[Array, "b 1"], first: Any, second: Any) -> tuple[Array, Array]:
    """Text states and masks of `first` in the rows where `where` is True, else of `second`."""
    return jnp.where(where[..., None], first[0], second[0]), jnp.where(where, first[1], second[1])


def _rows(x: Array, count: int, turns: slice) -> Array:
    """The rows of a batch whose number modulo `count` is in `turns`."""
    return x.reshape(-1, count, *x.shape[1:])[:, turns].reshape(-1, *x.shape[1:])
