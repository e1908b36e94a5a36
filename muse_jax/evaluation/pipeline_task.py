"""A pipeline or a tokenizer in place of a task, so that evaluators measure pretrained models too."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Int

from muse_jax.data import PLAIN_CAPTIONS, load_source, make_loader


class PipelineTask:
    """Adapts a pipeline to the interface that evaluators expect of a task.

    Args:
      pipeline: has `generate(prompts, seed=..., **sampling)`.
      config: with `task` and `data`, from which the batches are read.
      sampling: further arguments of `generate`.
    """

    traced = False  # `sample` runs compiled programs itself

    def __init__(self, pipeline: Any, config: Any, **sampling: Any):
        self.pipeline, self.config, self.sampling = pipeline, config, sampling

    def sample(self, params: Any, frozen: Any, batch: Mapping[str, Any], key: jax.Array) -> Any:
        """uint8 images for the captions of a batch, on the host."""
        seed = int(jax.random.bits(key))
        return self.pipeline.generate(batch["caption"], seed=seed, **self.sampling)

    def eval_loader(self, split: str) -> Iterator[Mapping[str, Any]]:
        """One pass over a split with plain captions, whole batches in every process."""
        return _batches(self.config.data, split)


class Codes(NamedTuple):
    """Codes of images."""

    ids: Int[Array, " b *grid_and_groups"]


class TokenizerTask:
    """Adapts an image tokenizer to the interface that evaluators expect of a tokenizer's task.

    Args:
      tokenizer: an `ImageTokenizer`.
      config: with `task` and `data`, from which the batches are read.
    """

    def __init__(self, tokenizer: Any, config: Any):
        self.vqgan, self.config = tokenizer, config

    def reconstruct(
        self, params: Any, frozen: Any, images: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b h w 3"], Codes]:
        """Images decoded from the codes of `images`, both in [-1, 1], and the codes; traced."""
        ids = self.vqgan.encode(params, images)
        return self.vqgan.decode(params, ids), Codes(ids)

    def eval_loader(self, split: str) -> Iterator[Mapping[str, Any]]:
        """One pass over a split, whole batches in every process."""
        return _batches(self.config.data, split)


def _batches(data: Any, split: str) -> Iterator[Mapping[str, Any]]:
    source = load_source(data.source, split, data.data_dir)
    return make_loader(
        source,
        batch_size=data.batch_size,
        image_size=data.image_size,
        caption=PLAIN_CAPTIONS,
        num_epochs=1,
        workers=data.workers,
    )
