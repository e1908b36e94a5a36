"""The compiled programs of the aMUSEd pipeline: text, tokens and pixels in one.

Weights, ids, images, the numbers of the sampling parameters, the seed and the listener are traced. A program
is compiled for its modules, the numbers of steps, and the batch.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.nn.clip import CLIPText
from muse_jax.sampling import Progress
from muse_jax.sampling.guidance import LogitsFn, halves, pair
from muse_jax.systems.amused.sampling import AmusedSampling, amused_decode, mask_ratios, mask_tokens
from muse_jax.systems.amused.text import encode_prompts
from muse_jax.systems.amused.uvit import UVit2D
from muse_jax.systems.base import cells_under
from muse_jax.tokenizers import TamingVQGAN, flat_tokens, token_grid

Condition = tuple[Float[Array, "batch text width"], Float[Array, "batch pooled"]]
"""Text states and pooled embeddings."""


class Modules(NamedTuple):
    """The networks without their weights, which `params` has under the names of the fields."""

    text: CLIPText
    transformer: UVit2D
    transformer_tokenizer: TamingVQGAN


class Texts(NamedTuple):
    """Token ids and masks of the prompts and of the negative prompt."""

    ids: Int[Array, "batch text"]
    mask: Bool[Array, "batch text"]
    negative_ids: Int[Array, "1 text"]
    negative_mask: Bool[Array, "1 text"]


class Request(NamedTuple):
    """The traced inputs that all programs share."""

    params: Mapping[str, Any]
    texts: Texts
    sampling: AmusedSampling


@partial(jax.jit, static_argnames=("modules",))
def generate(
    modules: Modules, request: Request, seed: Int[Array, ""], progress: Progress
) -> UInt8[Array, "batch height width 3"]:
    """Images of the texts. The draws of image i depend on the seed and on i only."""
    return _pixels(modules, request.params, generate_tokens(modules, request, seed, progress))


def generate_tokens(
    modules: Modules, request: Request, seed: Int[Array, ""], progress: Progress | None = None
) -> Int[Array, "batch n"]:
    """Flat tokens of the texts."""
    batch, network = request.texts.ids.shape[0], modules.transformer
    tokens = jnp.full((batch, network.num_tokens), network.mask_id)
    return _draw(modules, request, tokens, jax.random.key(seed), progress)


@partial(jax.jit, static_argnames=("modules", "first_step"))
def image_to_image(
    modules: Modules,
    request: Request,
    images: UInt8[Array, "batch height width 3"],
    first_step: int,
    seed: Int[Array, ""],
    progress: Progress,
) -> UInt8[Array, "batch height width 3"]:
    """The images, redrawn from a part of their tokens."""
    tokens = image_to_image_tokens(modules, request, images, first_step, seed, progress)
    return _pixels(modules, request.params, tokens)


def image_to_image_tokens(
    modules: Modules,
    request: Request,
    images: UInt8[Array, "batch height width 3"],
    first_step: int,
    seed: Int[Array, ""],
    progress: Progress | None = None,
) -> Int[Array, "batch n"]:
    """Flat tokens of the images, drawn from `first_step` on; before it all are masked that would be then."""
    key, num_steps = jax.random.key(seed), request.sampling.num_steps
    ratio = float(mask_ratios(num_steps, "cosine")[first_step - 1]) if first_step else 1.0
    tokens = _tokenize(modules, request.params, images)
    tokens = mask_tokens(
        tokens, jax.random.fold_in(key, num_steps), mask_id=modules.transformer.mask_id, ratio=ratio
    )
    return _draw(modules, request, tokens, key, progress, first_step=first_step)


@partial(jax.jit, static_argnames=("modules", "first_step"))
def inpaint(
    modules: Modules,
    request: Request,
    images: UInt8[Array, "batch height width 3"],
    mask: Bool[Array, "batch height width"],
    first_step: int,
    seed: Int[Array, ""],
    progress: Progress,
) -> UInt8[Array, "batch height width 3"]:
    """The images, redrawn where `mask` is True; every other pixel is the given one."""
    tokens = inpaint_tokens(modules, request, images, mask, first_step, seed, progress)
    return jnp.where(mask[..., None], _pixels(modules, request.params, tokens), images)


def inpaint_tokens(
    modules: Modules,
    request: Request,
    images: UInt8[Array, "batch height width 3"],
    mask: Bool[Array, "batch height width"],
    first_step: int,
    seed: Int[Array, ""],
    progress: Progress | None = None,
) -> Int[Array, "batch n"]:
    """Flat tokens of the images, drawn anew under `mask`."""
    network = modules.transformer
    cells = cells_under(mask, network.grid)
    tokens = jnp.where(cells, network.mask_id, _tokenize(modules, request.params, images))
    return _draw(
        modules,
        request,
        tokens,
        jax.random.key(seed),
        progress,
        first_step=first_step,
        schedule="linear",
        start_ratio=jnp.mean(cells, axis=1, keepdims=True, dtype=jnp.float32),
    )


def _draw(
    modules: Modules, request: Request, tokens: Array, key: Array, progress: Progress | None, **how: Any
) -> Int[Array, "batch n"]:
    texts, params, batch = request.texts, request.params, tokens.shape[0]
    ids = jnp.concatenate([texts.ids, texts.negative_ids])
    mask = jnp.concatenate([texts.mask, texts.negative_mask])
    states, pooled = encode_prompts(modules.text, params["text"], ids, mask)
    given, null = (states[:batch], pooled[:batch]), (states[batch:], pooled[batch:])
    size = image_size(modules)
    logits_fn = guided_logits(modules.transformer, params["transformer"], given, null, request.sampling, size)
    return amused_decode(
        logits_fn,
        tokens,
        key,
        mask_id=modules.transformer.mask_id,
        num_steps=request.sampling.num_steps,
        choice_temperature=request.sampling.choice_temperature,
        on_step=progress.at("transformer") if progress is not None else None,
        **how,
    )


def image_size(modules: Modules) -> tuple[int, int]:
    """Height and width of the images in pixels."""
    height, width = modules.transformer.grid
    factor = modules.transformer_tokenizer.downsampling
    return height * factor, width * factor


def micro_conditions(sampling: Any, size: tuple[int, int], batch: int) -> Float[Array, "batch 5"]:
    """Width, height, crop and aesthetic score, the same for all images."""
    numbers = (size[1], size[0], sampling.crop_x, sampling.crop_y, sampling.aesthetic_score)
    return jnp.tile(jnp.stack([jnp.asarray(number, jnp.float32) for number in numbers]), (batch, 1))


def guided_logits(
    network: UVit2D, params: Any, given: Condition, null: Condition, sampling: Any, size: tuple[int, int]
) -> LogitsFn:
    """Logits of tokens, guided away from the one text `null`; the condition is computed once.

    Args:
      network, params: of the transformer.
      given, null: conditions, a batch of them and one.
      sampling: an `AmusedSampling`, or a config's section like it.
      size: height and width of the images in pixels.
    """
    variables, batch = {"params": params}, len(given[0])
    states, pooled = (pair(g, n) for g, n in zip(given, null, strict=True))
    micro = micro_conditions(sampling, size, 2 * batch)
    condition = network.apply(variables, states, pooled, micro, method="condition")

    def logits_fn(tokens: Int[Array, "batch n"], _: Array) -> Float[Array, "batch n codes"]:
        hidden = network.apply(variables, pair(tokens, tokens), condition, method="hidden")
        with_text, without = halves(hidden.astype(jnp.float32))
        # Logits are linear in the hidden states, so that the mixture of these is enough.
        mixed = without + sampling.guidance_scale * (with_text - without)
        return network.apply(variables, mixed.astype(hidden.dtype), method="logits")

    return logits_fn


def _tokenize(modules: Modules, params: Mapping[str, Any], images: Array) -> Int[Array, "batch n"]:
    encode = modules.transformer_tokenizer.encode
    return flat_tokens(encode(params["transformer_tokenizer"], to_unit_range(images)))


def _pixels(modules: Modules, params: Mapping[str, Any], tokens: Array) -> UInt8[Array, "b h w 3"]:
    ids = token_grid(tokens, modules.transformer.grid, 1)
    return from_unit_range(modules.transformer_tokenizer.decode(params["transformer_tokenizer"], ids))
