"""The pipeline of the toy system."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from muse_jax.media.image import from_unit_range
from muse_jax.sampling.logits import apply_temperature, gumbel_argmax
from muse_jax.sampling.progress import Progress, StepCallback, report_step
from muse_jax.systems import validation
from muse_jax.systems.base import LoadedStage, Pipeline, split_samples
from muse_jax.tokenizers import token_grid
from tests.toy.words import LENGTH, words


class Modules(NamedTuple):
    """The modules without their weights."""

    base: Any
    base_tokenizer: Any


@partial(jax.jit, static_argnames=("modules",))
def generate(
    modules: Modules, params: Any, text: Any, temperature: jax.Array, seed: jax.Array, progress: Progress
) -> jax.Array:
    """uint8 images of texts."""
    logits = apply_temperature(modules.base.apply({"params": params["base"]}, *text), temperature)
    tokens = gumbel_argmax(jax.random.key(seed), logits)
    report_step(progress.at("base"), jnp.int32(1), 1, jnp.sum(tokens < 0))
    ids = token_grid(tokens, modules.base.grid, 1)
    return from_unit_range(modules.base_tokenizer.decode(params["base_tokenizer"], ids))


@dataclass(frozen=True, eq=False)
class ToyPipeline(Pipeline):
    """Text to images, every token for itself."""

    system_name: ClassVar[str] = "tests.toy"
    base: LoadedStage

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.base.image_size

    def count_steps(self, **sampling: Any) -> int:
        """How often `generate` calls `progress`."""
        return 1

    def generate(
        self,
        prompts: Sequence[str],
        *,
        num_samples: int | None = None,
        seed: int = 0,
        progress: StepCallback | None = None,
        **sampling: Any,
    ) -> np.ndarray:
        """Generates uint8 images (batch, height, width, 3) or (batch, num_samples, height, width, 3)."""
        texts = validation.check_prompts(prompts)
        validation.check_num_samples(num_samples)
        params: Any = self.sampling(**sampling)["base"]
        text = self._rows(words([text for text in texts for _ in range(num_samples or 1)]))
        inputs = (self.params, text, np.float32(params.temperature))
        return split_samples(self._run(generate, *inputs, seed=seed, progress=progress), num_samples)

    @cached_property
    def modules(self) -> Modules:
        return Modules(self.base.network, self.base.tokenizer)

    def generate_call(self, batch_size: int) -> tuple[Any, tuple[Any, ...]]:
        shape = (batch_size, LENGTH)
        text = self._rows((jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, jnp.bool_)))
        return generate, (self.params, text, np.float32(self.base.sampling.temperature))
