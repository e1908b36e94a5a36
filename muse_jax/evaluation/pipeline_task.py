"""A pipeline in place of a task, so that evaluators measure pretrained models too."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax

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
        data = self.config.data
        source = load_source(data.source, split, data.data_dir)
        return make_loader(
            source,
            batch_size=data.batch_size,
            image_size=data.image_size,
            caption=PLAIN_CAPTIONS,
            num_epochs=1,
            workers=data.workers,
        )
