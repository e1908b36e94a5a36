"""Training of the network that ranks videos: videos and texts find each other in a batch."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from muse_jax.media import Modality
from muse_jax.media.video import VideoModality
from muse_jax.systems.nuwa.ranker import RankerSampling, VideoRanker
from muse_jax.systems.text_states_task import TextStatesTask
from muse_jax.training.task import Batch, Sums, build, check_loss_keys

LOSS = {
    "video": 1.0,  # videos and texts; each text also sees the videos of the batch backwards, which are wrong
    "image": 0.5,  # a random frame of each video and texts
}
_NEVER = -1e9


class VideoRankerTask(TextStatesTask):
    """Contrastive cross-entropies over a batch (arXiv 2103.00020, figure 3), summed by `config.loss`.

    What a clip shows nearly always tells it from the others of a batch, so that a network need not see how it
    moves. The same clips backwards are what it must see that for.
    """

    sampling_params = RankerSampling
    config_defaults: ClassVar[Mapping[str, Any]] = {
        "data": {"features": "", "text_encoder": "minilm", "frames": 8, "fps": 8.0},
        "sampling": {},
    }

    def __init__(self, config: Any):
        super().__init__(config)
        self.network: VideoRanker = build(VideoRanker, "model", config.model)
        self.weights = check_loss_keys(config, LOSS)
        self.check_text_dim()

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Refuses stored features, which have tokens in place of pixels."""
        if config["data"]["features"]:
            raise ValueError(
                "config.data.features is set, but the task 'video_ranker' reads pixels: leave it empty."
            )

    def modalities(self, augment: str) -> Mapping[str, Modality]:
        data = self.config.data
        return {"video": VideoModality(data.image_size, data.frames, data.fps, augment)}

    def media_shapes(self) -> Batch:
        data = self.config.data
        shape = (data.batch_size, data.frames, data.image_size, data.image_size, 3)
        return {"video": jax.ShapeDtypeStruct(shape, jnp.uint8)}

    def init(self, key: Array) -> Any:
        return self.network.init(key, *self.network.example_inputs())["params"]

    def similarities(self, params: Any, clips: Array, text: tuple[Array, Array]) -> Float[Array, "videos b"]:
        """Logits of each video and each text."""
        videos, texts = self.network.apply({"params": params}, clips, *text)
        return videos @ texts.T

    def loss(self, params: Any, frozen: Any, batch: Batch, key: Array, step: Array):
        clips, text, same = jnp.asarray(batch["video"]), self.text(frozen, batch), same_captions(batch)
        frame = jax.random.randint(key, (len(clips),), 0, clips.shape[1])
        images = clips[jnp.arange(len(clips)), frame][:, None]
        scalars = {}
        for name, media in (("video", jnp.concatenate([clips, clips[:, ::-1]])), ("image", images)):
            if self.weights[name]:
                losses, _ = contrast(self.similarities(params, media, text), same)
                scalars[name] = jnp.mean(losses)
        return sum(self.weights[name] * value for name, value in scalars.items()), scalars

    def evaluate(self, params: Any, frozen: Any, batch: Batch, keys: Array) -> dict[str, Sums]:
        """The cross-entropy, and the share of videos that find their text among those of the batch."""
        logits = self.similarities(params, batch["video"], self.text(frozen, batch))
        losses, found = contrast(logits, same_captions(batch))
        ones = jnp.ones(len(losses))
        return {"cross_entropy": (losses, ones), "found": (found.astype(jnp.float32), ones)}


def same_captions(batch: Batch) -> Bool[Array, "b b"]:
    """Which captions of a batch are equal."""
    ids: Int[Array, "b text"] = jnp.where(batch["caption_mask"], batch["caption_ids"], -1)
    return jnp.all(ids[:, None] == ids[None], axis=-1)


def contrast(
    logits: Float[Array, "videos b"], same: Bool[Array, "b b"]
) -> tuple[Float[Array, " b"], Bool[Array, " b"]]:
    """Mean cross-entropies of rows and columns in nats, and which rows have their maximum on the diagonal.

    Args:
      logits: of the videos of a batch and, in further rows, of other videos, which fit none of the texts.
      same: pairs of equal captions. Apart from its own, a pair of these counts neither as right nor as wrong.
    """
    count = len(same)
    own = jnp.eye(count, dtype=bool)
    pairs = jnp.where(same & ~own, _NEVER, logits[:count])
    every = jnp.concatenate([pairs, logits[count:]])
    labels = jnp.arange(count)
    losses = [optax.softmax_cross_entropy_with_integer_labels(each, labels) for each in (pairs, every.T)]
    return sum(losses) / 2, jnp.argmax(pairs, axis=1) == labels
