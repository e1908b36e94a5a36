"""Text-to-image pipeline for aMUSEd: generation, image-to-image and inpainting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8

from muse_jax.checkpointing.source import Source
from muse_jax.sampling.params import check_fraction
from muse_jax.sampling.progress import StepCallback
from muse_jax.sharding.partitioning import put_tree, replicated
from muse_jax.systems import validation
from muse_jax.systems.amused import programs
from muse_jax.systems.amused.text import TOKENIZER, WEIGHTS, PromptEncoder
from muse_jax.systems.base import LoadedStage, Pipeline, split_samples

Images = UInt8[np.ndarray, "batch height width 3"]


@dataclass(frozen=True, eq=False)
class AmusedPipeline(Pipeline):
    """Text to images: CLIP's states, tokens, pixels (Patil et al. 2024), as diffusers' three pipelines.

    Attributes:
      prompt_encoder: frozen.
      transformer: the stage of the network, a `UVit2D`.

    Raises:
      ValueError: one sentence, for parts that do not fit together.
    """

    system_name: ClassVar[str] = "amused"
    prompt_encoder: PromptEncoder
    transformer: LoadedStage

    def __post_init__(self) -> None:
        network, text = self.transformer.network, self.prompt_encoder.module
        if (network.text_dim, network.pooled_dim) != (text.width, text.projection):
            raise ValueError(
                f"The transformer reads states of width {network.text_dim} and embeddings of "
                f"{network.pooled_dim}, but the text encoder gives {text.width} and {text.projection}: take "
                "the one it was trained with."
            )
        if network.codebook_size != self.transformer.tokenizer.codebook_size:
            raise ValueError(
                f"The transformer draws {network.codebook_size} codes, but its tokenizer has "
                f"{self.transformer.tokenizer.codebook_size}: take the tokenizer it was trained with."
            )

    @classmethod
    def load_components(
        cls, sources: Mapping[str, Source], stages: Mapping[str, LoadedStage], dtype: Any, **given: Any
    ) -> dict[str, Any]:
        """The text encoder of the checkpoint, or the one that the run was trained with."""
        if given:
            raise ValueError(f"An aMUSEd pipeline has no part {next(iter(given))!r} that can be replaced.")
        return {"prompt_encoder": PromptEncoder.from_source(sources["transformer"], dtype)}

    def options(self) -> dict[str, Any]:
        """The sizes of the text encoder."""
        return {"text_encoder": self.prompt_encoder.option()}

    def weights(self) -> dict[str, Any]:
        """The stage's weights, and the text encoder's."""
        return {**super().weights(), WEIGHTS.removesuffix(".safetensors"): self.prompt_encoder.params}

    def extra_files(self) -> dict[str, bytes]:
        """The text tokenizer."""
        tokenizer = self.prompt_encoder.tokenizer
        return {} if tokenizer is None else {TOKENIZER: tokenizer.serialize()}

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.transformer.image_size

    def count_steps(self, **sampling: Any) -> int:
        """How often `generate` calls `progress`, with the same sampling parameters."""
        params: Any = self.sampling(**sampling)["transformer"]
        return int(params.num_steps)

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
        """Generates images of the prompts.

        Args:
          prompts: at least one string.
          negative_prompt: text to guide away from. Default: the empty text.
          num_samples: images of each prompt, at least 1; None: one, without an axis for it.
          seed: 0 to 2**32 - 1. Image i depends on its prompt, the seed and i, not on the other prompts.
          progress: called with a `muse_jax.sampling.DecodeStep` after each step.
          sampling: fields of `AmusedSampling`. Default: the checkpoint's.

        Returns:
          uint8 (batch, height, width, 3), or (batch, num_samples, height, width, 3).

        Raises:
          ValueError: one sentence, before any device work, for an argument out of range.
        """
        texts = validation.check_prompts(prompts)
        validation.check_num_samples(num_samples)
        repeated = [text for text in texts for _ in range(num_samples or 1)]
        request = self._request(repeated, negative_prompt, sampling)
        return split_samples(self._run(programs.generate, request, seed=seed, progress=progress), num_samples)

    def image_to_image(
        self,
        images: Images,
        prompts: Sequence[str],
        *,
        strength: float = 0.5,
        negative_prompt: str | None = None,
        seed: int = 0,
        progress: StepCallback | None = None,
        **sampling: Any,
    ) -> Images:
        """Redraws images according to prompts, from a part of their tokens.

        Args:
          images: uint8 (batch, height, width, 3) of `image_size`.
          prompts: one for each image.
          strength: the share of the steps that are run, above 0 and at most 1; 1 forgets the image.
          negative_prompt, seed, progress, sampling: see `generate`.

        Returns:
          uint8 (batch, height, width, 3).

        Raises:
          ValueError: one sentence, before any device work, for an argument out of range.
        """
        images = validation.check_images(images, self.image_size)
        texts = validation.check_prompts(prompts, count=len(images))
        request = self._request(texts, negative_prompt, sampling)
        inputs = (request, self._rows(images), _first_step(strength, request.sampling.num_steps))
        return self._run(programs.image_to_image, *inputs, seed=seed, progress=progress)

    def inpaint(
        self,
        images: Images,
        mask: Bool[np.ndarray, "batch height width"] | Bool[np.ndarray, "height width"],
        prompts: Sequence[str],
        *,
        strength: float = 1.0,
        negative_prompt: str | None = None,
        seed: int = 0,
        progress: StepCallback | None = None,
        **sampling: Any,
    ) -> Images:
        """Redraws the pixels under a mask according to the prompts; all other pixels stay as they are.

        Args:
          images: uint8 (batch, height, width, 3) of `image_size`.
          mask: True for pixels to redraw; one for each image, or one for all.
          prompts: one for each image.
          strength: the share of the steps that are run, above 0 and at most 1.
          negative_prompt, seed, progress, sampling: see `generate`.

        Returns:
          uint8 (batch, height, width, 3).

        Raises:
          ValueError: one sentence, before any device work, for an argument out of range.
        """
        images = validation.check_images(images, self.image_size)
        mask = validation.check_mask(mask, images)
        texts = validation.check_prompts(prompts, count=len(images))
        request = self._request(texts, negative_prompt, sampling)
        first_step = _first_step(strength, request.sampling.num_steps)
        inputs = (request, *self._rows((images, mask)), first_step)
        return self._run(programs.inpaint, *inputs, seed=seed, progress=progress)

    @cached_property
    def modules(self) -> programs.Modules:
        stage = self.transformer
        return programs.Modules(self.prompt_encoder.module, stage.network, stage.tokenizer)

    @cached_property
    def params(self) -> dict[str, Any]:
        """All weights on the mesh: the stage's (see `Pipeline.params`), and under "text" the encoder's."""
        text = self.prompt_encoder.params
        everywhere = jax.tree.map(lambda _: replicated(self._mesh), text)
        return {"text": put_tree(text, everywhere), **super().params}

    def generate_call(self, batch_size: int) -> tuple[Any, tuple[Any, ...]]:
        def texts(rows: int) -> tuple[Any, Any]:
            shape = (rows, self.prompt_encoder.max_length)
            return jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, jnp.bool_)

        tokenized = self._rows(programs.Texts(*texts(batch_size), *texts(1)))
        return programs.generate, (programs.Request(self.params, tokenized, self._traced_sampling({})),)

    def _request(
        self, texts: Sequence[str], negative_prompt: Any, sampling: Mapping[str, Any]
    ) -> programs.Request:
        negative = validation.check_negative_prompt(negative_prompt)
        params = self._traced_sampling(sampling)
        tokenize: Any = self.prompt_encoder.tokenize
        tokenized = self._rows(programs.Texts(*tokenize(texts), *tokenize([negative])))
        return programs.Request(self.params, tokenized, params)

    def _traced_sampling(self, given: Mapping[str, Any]) -> Any:
        return self.sampling(**given)["transformer"].traced()


def _first_step(strength: Any, num_steps: int) -> int:
    """The step that the loop starts with, so that it runs `strength` of its steps, rounded down."""
    check_fraction("strength", strength)
    if not int(num_steps * strength):
        raise ValueError(
            f"strength {strength} of {num_steps} steps is less than one: give at least {1 / num_steps:.3g}."
        )
    return num_steps - int(num_steps * strength)
