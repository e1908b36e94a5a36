"""Text-to-image pipeline for CogView2: generation, inpainting, super-resolution, captions and scores."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from muse_jax.checkpointing.source import Source
from muse_jax.sampling import Sampling, step_table
from muse_jax.sampling.params import SamplingParams, check_not_negative
from muse_jax.sampling.progress import StepCallback
from muse_jax.sharding.partitioning import to_host
from muse_jax.systems import validation
from muse_jax.systems.base import LoadedStage, Pipeline, split_samples
from muse_jax.systems.cogview2 import programs
from muse_jax.systems.cogview2.sampling_params import bind_clusters
from muse_jax.systems.cogview2.stages import TEXT, check_stages, check_trained_together
from muse_jax.text import TextPieces
from muse_jax.tokenizers import Clusters, codebook_rows, load_clusters
from muse_jax.tokenizers.clusters import FILE as CLUSTERS

Images = UInt8[np.ndarray, "batch height width 3"]
NUM_CLUSTERS = 500
"""Clusters of codes in the paper (section 3.1), for programs that are compiled without them."""


@dataclass(frozen=True, eq=False)
class CogView2Pipeline(Pipeline):
    """Text-to-image pipeline for CogView2 (section 3): candidates, their ranking, super-resolution.

    The first call with a new number of prompts, candidates or samples, or with other static sampling
    parameters, compiles a program. Other prompts, seeds, temperatures and text weights do not.

    Attributes:
      text_pieces: sentencepiece model of the prompts.
      coarse: stage of a `CogLM`.
      clusters: clusters of the tokenizer's codes; None if no stage samples by clusters.
      direct: stage of a `DirectSuperRes`, without the parameters of CogLM; None: images are coarse.
      iterative: stage of an `IterativeSuperRes`; None: images come from the direct stage.

    Raises:
      ValueError: the parts do not fit together.
    """

    system_name: ClassVar[str] = "cogview2"
    text_pieces: TextPieces
    coarse: LoadedStage
    clusters: Clusters | None = None
    direct: LoadedStage | None = None
    iterative: LoadedStage | None = None

    def __post_init__(self) -> None:
        check_stages(self.text_pieces, self.clusters, self.coarse, self.direct, self.iterative)

    @classmethod
    def load_components(
        cls, sources: Mapping[str, Source], stages: Mapping[str, LoadedStage], dtype: Any, **given: Any
    ) -> dict[str, Any]:
        """Loads the sentencepiece model and, if the tokenizer has any, the clusters of codes."""
        check_trained_together(sources)
        coarse, source = stages["coarse"], sources["coarse"]
        length = coarse.network.text_pieces
        if source.abstract:
            of_code = np.zeros(coarse.tokenizer.codebook_size, np.int32)
            return {
                "text_pieces": TextPieces.untrained(length),
                "clusters": Clusters(of_code, np.zeros((NUM_CLUSTERS, 1))),
            }
        # In float32, since rounding could assign codes to other clusters.
        tokenizer = source.tokenizer("tokenizer", jnp.float32)
        clusters = None
        if coarse.sampling.top_clusters or source.file(CLUSTERS).is_file():
            clusters = load_clusters(source.file(CLUSTERS), codebook_rows(tokenizer.module, tokenizer.params))
        return {"text_pieces": TextPieces.from_file(source.file(TEXT), length), "clusters": clusters}

    def extra_files(self) -> dict[str, bytes]:
        """The sentencepiece model and the clusters."""
        files = {TEXT: self.text_pieces.serialize()}
        if self.clusters is not None:
            with tempfile.TemporaryDirectory() as folder:
                self.clusters.save(Path(folder) / CLUSTERS)
                files[CLUSTERS] = (Path(folder) / CLUSTERS).read_bytes()
        return files

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        height, width = self.coarse.image_size
        factor = self.direct.network.factor if self.direct else 1
        return height * factor, width * factor

    def count_steps(self, **sampling: Any) -> int:
        """Number of `progress` calls of `generate` with the same sampling parameters."""
        self.sampling(**sampling)
        both = self.direct and self.iterative
        iterations = int(step_table(self.direct.network.factor).max()) if self.direct and both else 0
        return int(self.coarse.network.image_tokens) + iterations

    def generate(
        self,
        prompts: Sequence[str],
        *,
        num_samples: int | None = None,
        seed: int = 0,
        progress: StepCallback | None = None,
        **sampling: Any,
    ) -> UInt8[np.ndarray, "batch *num_samples height width 3"]:
        """Generates images for prompts, the best of several candidates each.

        Args:
          prompts: at least one string.
          num_samples: images per prompt, at least 1 and at most `num_candidates`: those for which the prompt
            is most probable as a caption, best first; None: one, and the result has no axis for samples.
          seed: 0 to 2**32 - 1. Images of prompt i depend on the prompt, the seed, i and the number of
            candidates, but not on other prompts.
          progress: called with a `muse_jax.sampling.DecodeStep` after each step; its stage is "coarse" or
            "iterative".
          sampling: fields of `CogLMSampling` for the coarse stage (`num_candidates`, `temperature`, `top_k`,
            `top_p`, `top_clusters`, `text_weight`, ...), with the prefix "direct_" those of `TokenSampling`
            for direct super-resolution, and with "iterative_" those of `LoparSampling`. Default: the values
            of the checkpoint.

        Returns:
          uint8 (batch, height, width, 3), or (batch, num_samples, height, width, 3).

        Raises:
          ValueError: an argument is out of range or a prompt is too long; raised before any device work.
        """
        texts = validation.check_prompts(prompts)
        validation.check_num_samples(num_samples)
        params = self.sampling(**sampling)
        coarse: Any = params["coarse"]
        if (num_samples or 1) > coarse.num_candidates:
            raise ValueError(
                f"num_samples is {num_samples}, but only {coarse.num_candidates} candidates of each prompt "
                "are generated: raise num_candidates, or lower num_samples."
            )
        counts = (int(coarse.num_candidates), num_samples or 1)
        inputs = (*counts, self.params, self._encode(texts), self._stage_sampling(params, coarse.text_weight))
        images = self._run(programs.generate, *inputs, seed=seed, progress=progress)
        return split_samples(images, num_samples)

    def inpaint(
        self,
        images: Images,
        mask: Bool[np.ndarray, "batch height width"] | Bool[np.ndarray, "height width"],
        prompts: Sequence[str],
        *,
        seed: int = 0,
        progress: StepCallback | None = None,
        **sampling: Any,
    ) -> Images:
        """Replaces the pixels under a mask according to prompts; all other pixels are unchanged.

        Every token that contains a pixel of the mask is sampled anew, given all others (CogView2, 3.4).

        Args:
          images: uint8 (batch, height, width, 3) of `image_size`.
          mask: True for pixels to replace; one per image, or one for all images.
          prompts: one for each image.
          seed, progress, sampling: see `generate`; `infill_text_weight` replaces `text_weight`.

        Returns:
          uint8 (batch, height, width, 3).

        Raises:
          ValueError: see `generate`.
        """
        images = validation.check_images(images, self.image_size)
        mask = validation.check_mask(mask, images)
        text = self._encode(validation.check_prompts(prompts, count=len(images)))
        params = self.sampling(**sampling)
        coarse: Any = params["coarse"]
        inputs = (self.params, text, self._stage_sampling(params, coarse.infill_text_weight))
        images, mask = self._rows((images, mask))
        return self._run(programs.inpaint, *inputs, seed=seed, progress=progress, images=images, mask=mask)

    def super_resolve(
        self,
        images: Images,
        prompts: Sequence[str] | None = None,
        *,
        seed: int = 0,
        progress: StepCallback | None = None,
        **sampling: Any,
    ) -> Images:
        """Enlarges coarse images.

        Args:
          images: uint8 (batch, height, width, 3) of the coarse stage's size.
          prompts: one for each image; None: the captions of `caption`.
          seed, progress, sampling: see `generate`.

        Returns:
          uint8 (batch, height, width, 3) of `image_size`.

        Raises:
          ValueError: see `generate`; also if the checkpoint has no super-resolution stage.
        """
        if self.direct is None:
            raise ValueError("This checkpoint has no super-resolution stage: use one that does.")
        images = validation.check_images(images, self.coarse.image_size)
        validation.check_seed(seed)
        stage_sampling = self._stage_sampling(self.sampling(**sampling), 0.0)
        if prompts is None:
            text = programs.Text(*self._rows(self.text_pieces.encode_cut(self.caption(images))))
        else:
            text = self._encode(validation.check_prompts(prompts, count=len(images)))
        inputs = (self.params, text, stage_sampling)
        rows = self._rows(images)
        return self._run(programs.super_resolve, *inputs, seed=seed, progress=progress, images=rows)

    def caption(
        self, images: Images, temperature: float = 0.0, seed: int = 0, progress: StepCallback | None = None
    ) -> list[str]:
        """Generates captions of images.

        Args:
          images: uint8 (batch, height, width, 3) of the coarse stage's size or a whole multiple of it.
          temperature: 0 or greater; 0 selects the most probable piece.
          seed, progress: see `generate`.
        """
        images = self._check_multiple(images)
        check_not_negative("temperature", temperature)
        sampling = Sampling(np.float32(temperature))  # type: ignore[arg-type]
        rows = self._rows(images)
        pieces, there = self._run(
            programs.caption, self.params, sampling, seed=seed, progress=progress, images=rows
        )
        return self.text_pieces.decode(pieces, there)

    def score(self, images: Images, prompts: Sequence[str]) -> Float[np.ndarray, " batch"]:
        """Perplexity of each prompt given its image; lower values mean a better fit (CogView2, 3.4).

        Args:
          images: uint8 (batch, height, width, 3) of the coarse stage's size or a whole multiple of it.
          prompts: one for each image.
        """
        images = self._check_multiple(images)
        text = self._encode(validation.check_prompts(prompts, count=len(images)))
        with self._context():
            return to_host(programs.score(self.modules, self.params, text, self._rows(images)))

    @cached_property
    def modules(self) -> programs.Modules:
        direct, iterative = self.direct, self.iterative
        return programs.Modules(
            coarse=self.coarse.network,
            coarse_tokenizer=self.coarse.tokenizer,
            direct=direct.network if direct else None,
            iterative=iterative.network if iterative else None,
        )

    def generate_call(self, batch_size: int) -> tuple[Any, tuple[Any, ...]]:
        shape, sampling = (batch_size, self.coarse.network.text_pieces), self.coarse.sampling
        ids, mask = jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, jnp.bool_)
        text = programs.Text(*self._rows((ids, mask)))
        stage_sampling = self._stage_sampling(self.sampling(), sampling.text_weight)
        return programs.generate, (int(sampling.num_candidates), 1, self.params, text, stage_sampling)

    def _encode(self, texts: Sequence[str]) -> programs.Text:
        ids, mask = self.text_pieces.encode(texts)
        return programs.Text(*self._rows((ids, mask)))

    def _stage_sampling(
        self, params: Mapping[str, SamplingParams], text_weight: float
    ) -> programs.StageSampling:
        number: Any = np.float32  # always one type: a Python int would compile another program
        stages: Mapping[str, Any] = params
        return programs.StageSampling(
            coarse=bind_clusters(stages["coarse"], self.clusters),
            text_weight=number(text_weight),
            direct=bind_clusters(stages["direct"], self.clusters) if "direct" in stages else None,
            iterative=stages["iterative"].traced() if "iterative" in stages else None,
        )

    def _check_multiple(self, images: Any) -> np.ndarray:
        """Checks that the size of images is a multiple of the coarse size."""
        array = validation.check_images(images, None)
        height, width = self.coarse.image_size
        factor = max(1, array.shape[1] // height)
        return validation.check_images(array, (factor * height, factor * width))
