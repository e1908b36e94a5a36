"""Training of VideoGPT's video tokenizer, NUWA's contrast to codes of single frames."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, UInt8

from muse_jax.evaluation.image_quality import peak_signal_to_noise
from muse_jax.media import Modality, Video
from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.media.video import VideoModality
from muse_jax.tokenizers.quantizer import restart_dead_codes
from muse_jax.tokenizers.video_vqvae import VideoVQVAE
from muse_jax.training.task import Batch, Sums, Task, build, check_loss_keys

PREVIEW_VIDEOS = 4
LOSS = {
    "reconstruction": 1 / 0.06,  # mean squared error of clips in [-0.5, 0.5], over the variance of videos
    "codebook": 1.0,  # the program moves codes by averages, which is the same without momentum
    "commitment": 0.25,
    "restart_every": 1,  # steps between restarts of codes that the batch does not use; 0: never
}


class VideoVQVAETask(Task):
    """Squared error and the losses of the codebook (`config.loss`)."""

    config_defaults: ClassVar[Mapping[str, Any]] = {"data": {"frames": 16, "fps": 8.0}}

    def __init__(self, config: Any):
        super().__init__(config)
        self.weights = check_loss_keys(config, LOSS)
        self.network = build(VideoVQVAE, "model", config.model)
        data = config.data
        self.network.latent_spec((data.frames, data.image_size, data.image_size, 3))

    def modalities(self, augment: str) -> Mapping[str, Modality]:
        data = self.config.data
        return {"video": VideoModality(data.image_size, data.frames, data.fps, augment)}

    def media_shapes(self) -> Batch:
        data = self.config.data
        shape = (data.batch_size, data.frames, data.image_size, data.image_size, 3)
        return {"video": jax.ShapeDtypeStruct(shape, jnp.uint8)}

    def init(self, key: Array) -> Any:
        return self.network.init(key, *self.network.example_inputs())["params"]

    def loss(self, params: Any, frozen: Any, batch: Batch, key: Array, step: Array):
        clips = to_unit_range(batch["video"])
        reconstruction, quantized = self.network.apply({"params": params}, clips)
        terms = {
            "reconstruction": jnp.mean(((reconstruction - clips) / 2) ** 2),
            "codebook": quantized.codebook_loss,
            "commitment": quantized.commitment_loss,
        }
        loss = sum(self.weights[name] * value for name, value in terms.items())
        return loss, {**terms, "usage": quantized.usage, "perplexity": quantized.perplexity}

    def after_update(self, params: Any, frozen: Any, batch: Batch, key: Array, step: Array) -> Any:
        """Restarts codes that the batch does not use, every `restart_every` steps."""
        every = self.weights["restart_every"]
        if not every:
            return params

        def restarted(params: Any) -> Any:
            variables, clips = {"params": params}, to_unit_range(batch["video"])
            vectors: Any = self.network.apply(variables, clips, method="encode_vectors")
            ids: Any = self.network.apply(variables, clips, method="encode_ids")
            flat = vectors.reshape(-1, vectors.shape[-1]).astype(jnp.float32)
            codebook = restart_dead_codes(params["quantizer"]["codebook"], ids.reshape(-1), flat, key)
            return {**params, "quantizer": {"codebook": codebook}}

        return jax.lax.cond(step % every == every - 1, restarted, lambda params: params, params)

    def evaluate(self, params: Any, frozen: Any, batch: Batch, keys: Array) -> dict[str, Sums]:
        """PSNR of each clip in dB, the mean over its frames."""
        clips = batch["video"]
        frames = (rearrange(x, "b s h w c -> (b s) h w c") for x in (self.reconstruct(params, clips), clips))
        ours, given = (x.astype(jnp.float32) for x in frames)
        psnr = peak_signal_to_noise(ours, given, 255.0)
        return {"psnr": (jnp.mean(psnr.reshape(len(clips), -1), axis=1), jnp.ones(len(clips)))}

    def reconstruct(self, params: Any, clips: UInt8[Array, "b s h w 3"]) -> UInt8[Array, "b s h w 3"]:
        """Reconstructions of clips."""
        reconstruction, _ = self.network.apply({"params": params}, to_unit_range(clips))
        return from_unit_range(reconstruction)

    def preview(self, params: Any, frozen: Any, batch: Batch, key: Array) -> dict[str, Video]:
        clips = batch["video"][:PREVIEW_VIDEOS]
        frames = jnp.concatenate([clips, self.reconstruct(params, clips)])
        return {"reconstruction": Video(frames, self.config.data.fps)}
