"""Text-to-image pipeline for Muse: generation, inpainting, outpainting and editing without a mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8

from muse_jax.checkpointing.source import Source
from muse_jax.sampling.params import check_fraction, check_steps
from muse_jax.sampling.progress import StepCallback
from muse_jax.sharding.partitioning import put_tree, tree_shardings
from muse_jax.systems import validation
from muse_jax.systems.base import LoadedStage, Pipeline, split_samples
from muse_jax.systems.muse import programs
from muse_jax.systems.muse.stages import check_stages, check_trained_together
from muse_jax.text import TextEncoder, load_text_encoder

Images = UInt8[np.ndarray, "batch height width 3"]


@dataclass(frozen=True, eq=False)
class MusePipeline(Pipeline):
    """Text-to-image pipeline for Muse (section 2): text states, base tokens, super-resolution tokens, pixels.

    The first call with a new number of prompts, number of steps or order compiles a program. Other seeds,
    guidance scales and temperatures do not.

    Attributes:
      text_encoder: frozen text encoder.
      base: stage of the base network, a `MaskedTransformer`.
      superres: stage of the super-resolution network, a `SuperResTransformer`; None: images come from the
        base stage.

    Raises:
      ValueError: the parts do not fit together.
    """

    system_name: ClassVar[str] = "muse"
    text_encoder: TextEncoder
    base: LoadedStage
    superres: LoadedStage | None = None

    def __post_init__(self) -> None:
        check_stages(self.text_encoder, self.base, self.superres)

    @classmethod
    def load_components(
        cls,
        sources: Mapping[str, Source],
        stages: Mapping[str, LoadedStage],
        dtype: Any,
        **given: Any,
    ) -> dict[str, Any]:
        """Loads the text encoder that the base stage was trained with.

        `given["text_encoder"]` may be a loaded `TextEncoder`, or the directory of T5's files, "t5:DIR".
        """
        check_trained_together(sources)
        text_encoder: str | TextEncoder | None = given.pop("text_encoder", None)
        if given:
            raise ValueError(f"A Muse pipeline has no part {next(iter(given))!r}: it has text_encoder.")
        if isinstance(text_encoder, TextEncoder):
            return {"text_encoder": text_encoder}
        stored, length = sources["base"].option("text_encoder"), None
        if isinstance(stored, Mapping):
            stored, length = stored["name"], stored["max_length"]
        encoder = load_text_encoder(text_encoder or stored, max_length=length, dtype=dtype or jnp.float32)
        return {"text_encoder": encoder}

    def options(self) -> dict[str, Any]:
        """The name of the text encoder, which is not saved."""
        encoder = self.text_encoder
        return {"text_encoder": {"name": encoder.name, "max_length": encoder.max_length}}

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return (self.superres or self.base).image_size

    def count_steps(self, **sampling: Any) -> int:
        """Number of `progress` calls of `generate` with the same sampling parameters."""
        stages: Mapping[str, Any] = self.sampling(**sampling)
        return sum(int(params.num_steps) for params in stages.values())

    def generate(
        self,
        prompts: Sequence[str],
        *,
        negative_prompt: str | None = None,
        num_samples: int | None = None,
        seed: int = 0,
        progress: StepCallback | None = None,
        **sampling: Any,
    ) -> UInt8[np.ndarray, "batch *num_samples height width 3"]:
        """Generates images for prompts.

        Args:
          prompts: at least one string.
          negative_prompt: text to guide away from. Default: the empty text.
          num_samples: images per prompt, at least 1; None: one, and the result has no axis for samples.
          seed: 0 to 2**32 - 1. Image i depends on its prompt, the seed and i, but not on other prompts.
          progress: called with a `muse_jax.sampling.DecodeStep` after each step; its stage is "base" or
            "superres".
          sampling: fields of `MaskedSampling` for the base stage (`num_steps`, `guidance_scale`,
            `temperature`, `choice_temperature`, `order`), and with the prefix "superres_" for the
            super-resolution stage. Default: the values of the checkpoint.

        Returns:
          uint8 (batch, height, width, 3), or (batch, num_samples, height, width, 3).

        Raises:
          ValueError: an argument is out of range; raised before any device work.
        """
        texts = validation.check_prompts(prompts)
        validation.check_num_samples(num_samples)
        repeated = [text for text in texts for _ in range(num_samples or 1)]
        request = self._request(repeated, [validation.check_negative_prompt(negative_prompt)], sampling)
        images = self._run(programs.generate, request, seed=seed, progress=progress)
        return split_samples(images, num_samples)

    def inpaint(
        self,
        images: Images,
        mask: Bool[np.ndarray, "batch height width"] | Bool[np.ndarray, "height width"],
        prompts: Sequence[str],
        *,
        negative_prompt: str | None = None,
        seed: int = 0,
        progress: StepCallback | None = None,
        **sampling: Any,
    ) -> Images:
        """Replaces the pixels under a mask according to prompts; all other pixels are unchanged.

        Args:
          images: uint8 (batch, height, width, 3) of `image_size`.
          mask: True for pixels to replace; one per image, or one for all images.
          prompts: one for each image.
          negative_prompt, seed, progress, sampling: see `generate`.

        Returns:
          uint8 (batch, height, width, 3).

        Raises:
          ValueError: an argument is out of range; raised before any device work.
        """
        images = validation.check_images(images, self.image_size)
        mask = validation.check_mask(mask, images)
        texts = validation.check_prompts(prompts, count=len(images))
        request = self._request(texts, [validation.check_negative_prompt(negative_prompt)], sampling)
        rows = self._rows((images, mask))
        return self._run(programs.inpaint, request, *rows, seed=seed, progress=progress)

    def outpaint(
        self, images: Images, margins: tuple[int, int, int, int], prompts: Sequence[str], **options: Any
    ) -> Images:
        """Extends images beyond their borders.

        The images with their margins must have `image_size`. To extend a 128 px image to the right, for
        example, pass its right half, `images[:, :, 64:]`, and the margins (0, 0, 0, 64).

        Args:
          images: uint8 (batch, height, width, 3).
          margins: pixels to add (top, bottom, left, right), 0 or greater.
          prompts: one for each image.
          options: further arguments of `inpaint`.

        Returns:
          uint8 (batch, height, width, 3) of `image_size`.
        """
        images = validation.check_images(images, None)
        top, bottom, left, right = validation.check_margins(margins, images, self.image_size)
        # The border repeats the outermost pixels, so that tokens at the seam do not contain an artificial
        # edge.
        canvas = np.pad(images, ((0, 0), (top, bottom), (left, right), (0, 0)), mode="edge")
        mask = np.ones(self.image_size, bool)
        mask[top : top + images.shape[1], left : left + images.shape[2]] = False
        return self.inpaint(canvas, mask, prompts, **options)

    def edit(
        self,
        images: Images,
        prompts: Sequence[str],
        old_prompts: Sequence[str] | None = None,
        *,
        num_steps: int = 100,
        edit_ratio: float = 0.08,
        top_k: int = 3,
        seed: int = 0,
        progress: StepCallback | None = None,
        **sampling: Any,
    ) -> Images:
        """Edits images towards prompts without a mask (Muse, section 3.4).

        Args:
          images: uint8 (batch, height, width, 3) of `image_size`.
          prompts: description of each edited image.
          old_prompts: description of each given image, to guide away from. Default: the empty text.
          num_steps: number of iterations, each of which resamples a random part of the base tokens; at least
            1.
          edit_ratio: size of that part, above 0 and at most 1.
          top_k: number of most probable codes to sample from, at least 1.
          seed, progress, sampling: see `generate`.

        Returns:
          uint8 (batch, height, width, 3).

        Raises:
          ValueError: an argument is out of range; raised before any device work.
        """
        images = validation.check_images(images, self.image_size)
        texts = validation.check_prompts(prompts, count=len(images))
        negatives = [""]
        if old_prompts is not None:
            negatives = validation.check_prompts(old_prompts, "old_prompts", len(images))
        check_steps("top_k", top_k)
        check_fraction("edit_ratio", edit_ratio)
        request = self._request(texts, negatives, {"num_steps": num_steps, **sampling})
        inputs = (request, self._rows(images), np.float32(edit_ratio), int(top_k))
        return self._run(programs.edit, *inputs, seed=seed, progress=progress)

    @cached_property
    def modules(self) -> programs.Modules:
        superres = self.superres
        return programs.Modules(
            text=self.text_encoder.module,
            base=self.base.network,
            base_tokenizer=self.base.tokenizer,
            superres=superres.network if superres else None,
            superres_tokenizer=superres.tokenizer if superres else None,
        )

    @cached_property
    def params(self) -> dict[str, Any]:
        """All weights on the mesh: those of `Pipeline.params`, and the text encoder's under "text"."""
        encoder = self.text_encoder
        text = put_tree(encoder.params, tree_shardings(encoder.boxed_shapes(), self._mesh))
        return {"text": text, **super().params}

    def generate_call(self, batch_size: int) -> tuple[Any, tuple[Any, ...]]:
        length = self.text_encoder.max_length

        def texts(rows: int) -> tuple[Any, Any]:
            shape = (rows, length)
            return jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, jnp.bool_)

        tokenized = self._rows(programs.Texts(*texts(batch_size), *texts(1)))
        return programs.generate, (programs.Request(self.params, tokenized, self._traced_sampling({})),)

    def vocabulary(self) -> dict[str, bytes]:
        return self.text_encoder.vocabulary()

    def _request(
        self, texts: Sequence[str], negatives: Sequence[str], sampling: Mapping[str, Any]
    ) -> programs.Request:
        tokenize: Any = self.text_encoder.tokenize
        params = self._traced_sampling(sampling)
        tokenized = self._rows(programs.Texts(*tokenize(texts), *tokenize(negatives)))
        return programs.Request(self.params, tokenized, params)

    def _traced_sampling(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {name: params.traced() for name, params in self.sampling(**given).items()}
