"""Pipeline for NUWA: images and videos from text, from sketches, and from parts of images and videos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8

from muse_jax.checkpointing.source import Source
from muse_jax.media.video import DEFAULT_FPS
from muse_jax.sampling.progress import StepCallback
from muse_jax.sharding.partitioning import put_tree, tree_shardings
from muse_jax.systems import validation
from muse_jax.systems.base import LoadedStage, Pipeline, split_samples
from muse_jax.systems.nuwa import programs
from muse_jax.systems.nuwa.checks import (
    check_candidates,
    check_clip_mask,
    check_clips,
    check_frames,
    check_stages,
)
from muse_jax.systems.nuwa.sampling import count_steps
from muse_jax.text import TextEncoder, load_text_encoder

Images = UInt8[np.ndarray, "batch *samples height width 3"]
Videos = UInt8[np.ndarray, "batch *samples frames height width 3"]


@dataclass(frozen=True, eq=False)
class NuwaPipeline(Pipeline):
    """NUWA's eight tasks (section 3.4), each a call with a condition and clamped tokens.

    All calls take `seed` (0 to 2**32 - 1), `progress` (called with a `muse_jax.sampling.DecodeStep` after
    each step) and the fields of `NuwaSampling`, such as `order` ("raster", "wavefront" or "masked"),
    `guidance_scale`, `temperature`, `top_k` and `num_candidates`; those left out are the checkpoint's. They
    raise ValueError, one sentence, before any device work, for an argument out of range. A program is
    compiled at the first call for a number of prompts, of frames and of candidates, and another one for a
    guidance scale of 0, which needs half of the work; other prompts, seeds and scales compile nothing.

    Attributes:
      text_encoder: frozen.
      base: the stage of the network, a `NuwaTransformer`.
      ranker: the stage of the network that chooses among candidates, a `VideoRanker`; None: without.
      fps: frames per second of the videos.
    """

    system_name: ClassVar[str] = "nuwa"
    text_encoder: TextEncoder
    base: LoadedStage
    ranker: LoadedStage | None = None
    fps: float = DEFAULT_FPS

    def __post_init__(self) -> None:
        check_stages(self.text_encoder, self.base, self.ranker)

    @classmethod
    def load_components(
        cls, sources: Mapping[str, Source], stages: Mapping[str, LoadedStage], dtype: Any, **given: Any
    ) -> dict[str, Any]:
        """The text encoder that the network was trained with, and the frame rate."""
        if given:
            raise ValueError(f"A NUWA pipeline has no part {next(iter(given))!r} to replace: leave it out.")
        stored, length = sources["base"].option("text_encoder"), None
        if isinstance(stored, Mapping):
            stored, length = stored["name"], stored["max_length"]
        encoder = load_text_encoder(stored, max_length=length, dtype=dtype or jnp.float32)
        return {"text_encoder": encoder, "fps": float(sources["base"].option("fps"))}

    def options(self) -> dict[str, Any]:
        """The name of the text encoder, which is not saved, and the frame rate."""
        encoder = self.text_encoder
        return {"text_encoder": {"name": encoder.name, "max_length": encoder.max_length}, "fps": self.fps}

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of images and frames in pixels."""
        _, height, width = self.base.network.grid
        return height * self.base.tokenizer.downsampling, width * self.base.tokenizer.downsampling

    @property
    def max_frames(self) -> int:
        """The most frames of a video."""
        return self.base.network.grid[0]

    def count_steps(self, frames: int = 1, **sampling: Any) -> int:
        """How often a call that draws `frames` frames calls `progress`."""
        params: Any = self.sampling(**sampling)["base"]
        return count_steps(self.base.network, params, frames)

    def generate_image(
        self,
        prompts: Sequence[str],
        *,
        negative_prompt: str | None = None,
        num_samples: int | None = None,
        **options: Any,
    ) -> Images:
        """Generates images of the prompts; see `generate_video`."""
        videos = self.generate_video(
            prompts, frames=1, negative_prompt=negative_prompt, num_samples=num_samples, **options
        )
        return videos[..., 0, :, :, :]

    generate = generate_image
    """Text to images is what all pipelines have under this name."""

    def generate_video(
        self,
        prompts: Sequence[str],
        *,
        frames: int | None = None,
        negative_prompt: str | None = None,
        num_samples: int | None = None,
        **options: Any,
    ) -> Videos:
        """Generates videos of the prompts.

        Args:
          prompts: at least one string.
          frames: of each video, 1 to `max_frames`, the default.
          negative_prompt: text to guide away from. Default: the empty text.
          num_samples: videos of each prompt, at least 1; None: one, without an axis for it.
          options: `seed`, `progress` and sampling parameters.

        Returns:
          uint8 (batch, frames, height, width, 3), or with num_samples as a second axis.
        """
        texts = validation.check_prompts(prompts)
        validation.check_num_samples(num_samples)
        negative = validation.check_negative_prompt(negative_prompt)
        repeated = [text for text in texts for _ in range(num_samples or 1)]
        videos = self._draw(check_frames(frames, self.max_frames), repeated, negative, **options)
        return split_samples(videos, num_samples)

    def predict(self, videos: Videos, *, frames: int | None = None, **options: Any) -> Videos:
        """Continues videos, or images as videos of one frame, to `frames` frames (`max_frames` by default).

        Args:
          videos: uint8 (batch, frames, height, width, 3), fewer frames than are wanted.
        """
        clips = check_clips("videos", videos, self.image_size, self.max_frames)
        count, known = check_frames(frames, self.max_frames), clips.shape[1]
        if known >= count:
            raise ValueError(
                f"videos have {known} frames and frames is {count}, so that none is left to predict: give "
                "fewer of the one or ask for more of the other."
            )
        later = np.zeros((len(clips), count - known, *clips.shape[2:]), np.uint8)
        mask = np.broadcast_to((np.arange(count) >= known)[:, None, None], (count, *clips.shape[2:4]))
        return self._complete(np.concatenate([clips, later], axis=1), mask, None, options)

    def complete(
        self,
        images: Images,
        mask: Bool[np.ndarray, "batch height width"] | Bool[np.ndarray, "height width"],
        **options: Any,
    ) -> Images:
        """Redraws the pixels under a mask without a text; all other pixels stay as they are.

        Args:
          images: uint8 (batch, height, width, 3).
          mask: True for pixels to redraw; one for each image, or one for all.
        """
        images = validation.check_images(images, self.image_size)
        mask = validation.check_mask(mask, images)
        return self._complete(images[:, None], mask[:, None], None, options)[:, 0]

    def manipulate(
        self, media: Images | Videos, mask: Bool[np.ndarray, "..."], prompts: Sequence[str], **options: Any
    ) -> Images | Videos:
        """Redraws the pixels of images or videos under a mask according to the prompts.

        Args:
          media: uint8 images (batch, height, width, 3) or videos (batch, frames, height, width, 3).
          mask: True for pixels to redraw, of the shape of `media` without colors; leading axes may be left
            out, for all images or frames.
          prompts: one for each image or video.
        """
        if np.ndim(media) == 4:
            images = validation.check_images(media, self.image_size)
            mask = validation.check_mask(mask, images)
            texts = validation.check_prompts(prompts, count=len(images))
            return self._complete(images[:, None], mask[:, None], texts, options)[:, 0]
        clips = check_clips("videos", media, self.image_size, self.max_frames)
        texts = validation.check_prompts(prompts, count=len(clips))
        return self._complete(clips, check_clip_mask(mask, clips), texts, options)

    def sketch_to_image(
        self, sketches: Images, prompts: Sequence[str] | None = None, **options: Any
    ) -> Images:
        """Generates images from sketches, uint8 (batch, height, width, 3), and prompts if there are any."""
        sketches = validation.check_images(sketches, self.image_size)
        return self.sketch_to_video(sketches[:, None], prompts, frames=1, **options)[:, 0]

    def sketch_to_video(
        self,
        sketches: Videos,
        prompts: Sequence[str] | None = None,
        *,
        frames: int | None = None,
        **options: Any,
    ) -> Videos:
        """Generates videos from sketches of them, and from prompts if there are any.

        Args:
          sketches: uint8 (batch, frames, height, width, 3); their number of frames may be another one.
          prompts: one for each sketch.
          frames: of each video; by default that of the sketches.
        """
        if not self.base.network.condition_depth:
            raise ValueError("This checkpoint reads no sketches: take one with condition_depth above 0.")
        sketches = check_clips("sketches", sketches, self.image_size, self.max_frames)
        texts = [""] * len(sketches)
        if prompts is not None:
            texts = validation.check_prompts(prompts, count=len(sketches))
        count = check_frames(frames or sketches.shape[1], self.max_frames)
        return self._draw(count, texts, None if prompts is None else "", sketches=sketches, **options)

    def _complete(self, clips: Any, mask: Any, texts: Any, options: Mapping[str, Any]) -> Any:
        mask = np.broadcast_to(mask, clips.shape[:4])
        given = programs.Given(clips, mask)
        if texts is None:
            return self._draw(clips.shape[1], [""] * len(clips), None, given=given, **options)
        return self._draw(clips.shape[1], texts, "", given=given, **options)

    def _draw(
        self,
        frames: int,
        texts: Sequence[str],
        negative: str | None,
        *,
        sketches: Any = None,
        given: Any = None,
        seed: int = 0,
        progress: StepCallback | None = None,
        **sampling: Any,
    ) -> Any:
        params: Any = self.sampling(**sampling)["base"]
        count_steps(self.base.network, params, frames)  # refuses an order that the network does not have
        check_candidates(params, self.ranker)
        if negative is None:  # no text to rank by
            params = params.override(num_candidates=1)
        tokenize: Any = self.text_encoder.tokenize
        prompts = programs.Texts(*tokenize(texts))
        unguided = negative is None or params.guidance_scale == 0
        away = None if unguided else programs.Texts(*tokenize([negative]))
        rows = self._rows((prompts, sketches, given))
        request = programs.Request(self.params, params.traced(), rows[0], away, *rows[1:])
        return self._run(programs.draw_clips, request, frames, seed=seed, progress=progress)

    @cached_property
    def modules(self) -> programs.Modules:
        ranker = None if self.ranker is None else self.ranker.network
        return programs.Modules(self.text_encoder.module, self.base.network, self.base.tokenizer, ranker)

    @cached_property
    def params(self) -> dict[str, Any]:
        """All weights on the mesh: the stage's (see `Pipeline.params`), and under "text" the encoder's."""
        encoder = self.text_encoder
        text = put_tree(encoder.params, tree_shardings(encoder.boxed_shapes(), self._mesh))
        return {"text": text, **super().params}

    def generate_call(self, batch_size: int) -> tuple[Any, tuple[Any, ...]]:
        length = self.text_encoder.max_length

        def texts(rows: int) -> programs.Texts:
            shape = (rows, length)
            of: Any = [jax.ShapeDtypeStruct(shape, kind) for kind in (jnp.int32, jnp.bool_)]
            return self._rows(programs.Texts(*of))

        sampling: Any = self.sampling()["base"]
        away = None if sampling.guidance_scale == 0 else texts(1)
        request = programs.Request(self.params, sampling.traced(), texts(batch_size), away)
        return programs.draw_clips, (request, self.max_frames)

    def vocabulary(self) -> dict[str, bytes]:
        return self.text_encoder.vocabulary()
