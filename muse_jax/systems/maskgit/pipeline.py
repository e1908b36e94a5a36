"""Class-conditional pipeline for MaskGIT: generation and inpainting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, UInt8

from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.sampling import Progress, masked_decode
from muse_jax.sampling.params import SamplingParams, check_not_negative, check_steps, static
from muse_jax.sampling.progress import StepCallback
from muse_jax.systems import validation
from muse_jax.systems.base import LoadedStage, Pipeline, cells_under, split_samples
from muse_jax.systems.maskgit.transformer import ClassTransformer
from muse_jax.tokenizers import flat_tokens, token_grid

Images = UInt8[np.ndarray, "batch height width 3"]


@struct.dataclass
class MaskGITSampling(SamplingParams):
    """Parallel decoding in order of confidence; see `muse_jax.sampling.masked_decode`.

    num_steps: passes of the network, at least 1; the paper takes 8 at 256 px and 12 at 512 px.
    temperature: of the draw of a token, 0 or greater.
    choice_temperature: of the noise on which tokens are kept first, 0 or greater.
    """

    num_steps: int = static(8)
    temperature: float = 1.0
    choice_temperature: float = 4.5

    def check(self) -> None:
        check_steps("num_steps", self.num_steps)
        for name in ("temperature", "choice_temperature"):
            check_not_negative(name, getattr(self, name))


class Modules(NamedTuple):
    """The networks without their weights, which `params` has under the names of the fields."""

    transformer: ClassTransformer
    transformer_tokenizer: Any


class Request(NamedTuple):
    """The traced inputs that both programs share."""

    params: Mapping[str, Any]
    classes: Int[Array, " batch"]
    sampling: MaskGITSampling


def draw(
    network: ClassTransformer,
    params: Any,
    classes: Int[Array, " b"],
    tokens: Int[Array, "b n"],
    key: Array,
    sampling: Any,
    progress: Progress | None = None,
) -> Int[Array, "b n"]:
    """Draws the masked tokens of images of classes; `sampling` is a `MaskGITSampling` or a config like it."""
    variables = {"params": params}
    return masked_decode(
        lambda tokens, _: network.apply(variables, tokens, classes, method="linear_logits"),
        tokens,
        key,
        mask_id=network.mask_id,
        num_steps=sampling.num_steps,
        temperature=sampling.temperature,
        choice_temperature=sampling.choice_temperature,
        on_step=progress.at("transformer") if progress is not None else None,
    )


@partial(jax.jit, static_argnames=("modules",))
def generate(
    modules: Modules, request: Request, seed: Int[Array, ""], progress: Progress
) -> UInt8[Array, "batch height width 3"]:
    """Images of the classes. The draws of image i depend on the seed and on i only."""
    network = modules.transformer
    tokens = jnp.full((len(request.classes), network.num_tokens), network.mask_id)
    return _images(modules, request, tokens, seed, progress)


@partial(jax.jit, static_argnames=("modules",))
def inpaint(
    modules: Modules,
    request: Request,
    images: UInt8[Array, "batch height width 3"],
    mask: Bool[Array, "batch height width"],
    seed: Int[Array, ""],
    progress: Progress,
) -> UInt8[Array, "batch height width 3"]:
    """The images, redrawn where `mask` is True; every other pixel is the given one."""
    network, encode = modules.transformer, modules.transformer_tokenizer.encode
    tokens = flat_tokens(encode(request.params["transformer_tokenizer"], to_unit_range(images)))
    tokens = jnp.where(cells_under(mask, network.grid), network.mask_id, tokens)
    return jnp.where(mask[..., None], _images(modules, request, tokens, seed, progress), images)


def _images(modules: Modules, request: Request, tokens: Array, seed: Array, progress: Progress) -> Array:
    network, params = modules.transformer, request.params
    inputs = (request.classes, tokens, jax.random.key(seed), request.sampling, progress)
    drawn = token_grid(draw(network, params["transformer"], *inputs), network.grid, 1)
    return from_unit_range(modules.transformer_tokenizer.decode(params["transformer_tokenizer"], drawn))


@dataclass(frozen=True, eq=False)
class MaskGITPipeline(Pipeline):
    """Classes to images: tokens, pixels (Chang et al. 2022).

    Attributes:
      transformer: the stage of the network, a `ClassTransformer`.

    Raises:
      ValueError: one sentence, for parts that do not fit together.
    """

    system_name: ClassVar[str] = "maskgit"
    transformer: LoadedStage

    def __post_init__(self) -> None:
        network, tokenizer = self.transformer.network, self.transformer.tokenizer
        if network.vocab_size != tokenizer.codebook_size:
            raise ValueError(
                f"The transformer draws {network.vocab_size} codes, but its tokenizer has "
                f"{tokenizer.codebook_size}: take the tokenizer it was trained with."
            )

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
        classes: Sequence[int | str],
        *,
        num_samples: int | None = None,
        seed: int = 0,
        progress: StepCallback | None = None,
        **sampling: Any,
    ) -> UInt8[np.ndarray, "batch *num_samples height width 3"]:
        """Generates images of classes.

        Args:
          classes: at least one number of a class, from 0 on, also as text ("207").
          num_samples: images of each class, at least 1; None: one, without an axis for it.
          seed: 0 to 2**32 - 1. Image i depends on its class, the seed and i, not on the other classes.
          progress: called with a `muse_jax.sampling.DecodeStep` after each step.
          sampling: fields of `MaskGITSampling`. Default: the checkpoint's.

        Returns:
          uint8 (batch, height, width, 3), or (batch, num_samples, height, width, 3).

        Raises:
          ValueError: one sentence, before any device work, for an argument out of range.
        """
        validation.check_num_samples(num_samples)
        numbers = check_classes(classes, self.transformer.network.num_classes)
        request = self._request(np.repeat(numbers, num_samples or 1), sampling)
        return split_samples(self._run(generate, request, seed=seed, progress=progress), num_samples)

    def inpaint(
        self,
        images: Images,
        mask: Bool[np.ndarray, "batch height width"] | Bool[np.ndarray, "height width"],
        classes: Sequence[int | str],
        *,
        seed: int = 0,
        progress: StepCallback | None = None,
        **sampling: Any,
    ) -> Images:
        """Redraws the pixels under a mask as a class; all other pixels stay as they are.

        Args:
          images: uint8 (batch, height, width, 3) of `image_size`.
          mask: True for pixels to redraw; one for each image, or one for all.
          classes: one for each image.
          seed, progress, sampling: see `generate`.

        Returns:
          uint8 (batch, height, width, 3).

        Raises:
          ValueError: one sentence, before any device work, for an argument out of range.
        """
        images = validation.check_images(images, self.image_size)
        mask = validation.check_mask(mask, images)
        numbers = check_classes(classes, self.transformer.network.num_classes)
        if len(numbers) != len(images):
            raise ValueError(f"classes must be {len(images)}, one for each image, given {len(numbers)}.")
        inputs = (self._request(numbers, sampling), *self._rows((images, mask)))
        return self._run(inpaint, *inputs, seed=seed, progress=progress)

    @cached_property
    def modules(self) -> Modules:
        return Modules(self.transformer.network, self.transformer.tokenizer)

    def generate_call(self, batch_size: int) -> tuple[Any, tuple[Any, ...]]:
        classes = self._rows(jax.ShapeDtypeStruct((batch_size,), jnp.int32))
        sampling: Any = self.sampling()["transformer"].traced()
        return generate, (Request(self.params, classes, sampling),)

    def _request(self, classes: Int[np.ndarray, " batch"], sampling: Mapping[str, Any]) -> Request:
        params: Any = self.sampling(**sampling)["transformer"].traced()
        return Request(self.params, self._rows(classes), params)


def check_classes(classes: Any, num_classes: int) -> Int[np.ndarray, " batch"]:
    """The numbers of classes: at least one, each from 0 to `num_classes` - 1."""
    if isinstance(classes, str) or not isinstance(classes, Sequence | np.ndarray) or not len(classes):
        raise ValueError(f"classes must be a list of numbers, such as [207], given {classes!r}.")
    numbers = []
    for number in classes:
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if not whole and not (isinstance(number, str) and number.isdecimal()):
            raise ValueError(f"Each class must be a whole number, such as 207, given {number!r}.")
        numbers.append(int(number))
    if wrong := [number for number in numbers if not 0 <= number < num_classes]:
        raise ValueError(f"Classes are numbers from 0 to {num_classes - 1}, given {wrong[0]}.")
    return np.array(numbers, np.int32)
