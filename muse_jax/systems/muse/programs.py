"""Compiled programs of the Muse pipeline, each from text to pixels through all stages.

Weights, ids, images, numeric sampling parameters, the seed and the progress callback are traced. A program is
compiled for its modules, the static sampling parameters (number of steps, order) and the batch size.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import reduce, repeat
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, UInt8

from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.nn.positions import entry_grid
from muse_jax.sampling import LogitsFn, Progress, guided_logits_fn, mask_free_edit, masked_decode
from muse_jax.sampling.params import MaskedSampling
from muse_jax.systems.base import cells_under
from muse_jax.systems.muse.masked_transformer import MaskedTransformer
from muse_jax.systems.muse.superres_transformer import SuperResTransformer
from muse_jax.tokenizers import VQGAN, flat_tokens, token_grid


class Modules(NamedTuple):
    """Modules without their weights, which `params` holds under the same names."""

    text: nn.Module
    base: MaskedTransformer
    base_tokenizer: VQGAN
    superres: SuperResTransformer | None
    superres_tokenizer: VQGAN | None


class Texts(NamedTuple):
    """Token ids and masks of the prompts, and of negative prompts (one for all, or one per prompt)."""

    ids: Int[Array, "batch text"]
    mask: Bool[Array, "batch text"]
    negative_ids: Int[Array, "negatives text"]
    negative_mask: Bool[Array, "negatives text"]


class Request(NamedTuple):
    """Traced inputs that all programs share."""

    params: Mapping[str, Any]
    texts: Texts
    sampling: Mapping[str, MaskedSampling]


# (states, mask) of the prompts, and of the negative prompts.
Conditions = tuple[tuple[Any, Any], tuple[Any, Any]]


@partial(jax.jit, static_argnames=("modules",))
def generate(
    modules: Modules, request: Request, seed: Int[Array, ""], progress: Progress
) -> UInt8[Array, "batch height width 3"]:
    """Images for the texts. The random draws of image i depend only on the seed and i."""
    batch = request.texts.ids.shape[0]
    tokens = {"base": jnp.full((batch, modules.base.num_tokens), modules.base.vocab_size)}
    if modules.superres is not None:
        superres = modules.superres
        tokens["superres"] = jnp.full((batch, superres.num_tokens), superres.vocab_size)
    return _sample(modules, request, seed, progress, tokens)


@partial(jax.jit, static_argnames=("modules",))
def inpaint(
    modules: Modules,
    request: Request,
    images: UInt8[Array, "batch height width 3"],
    mask: Bool[Array, "batch height width"],
    seed: Int[Array, ""],
    progress: Progress,
) -> UInt8[Array, "batch height width 3"]:
    """The images with new pixels where `mask` is True; all other pixels are unchanged."""
    tokens = _tokenize(modules, request.params, images)
    for name in tokens:
        network = getattr(modules, name)
        tokens[name] = jnp.where(_entries(mask, network), network.vocab_size, tokens[name])
    sampled = _sample(modules, request, seed, progress, tokens)
    return jnp.where(mask[..., None], sampled, images)


@partial(jax.jit, static_argnames=("modules", "top_k"))
def edit(
    modules: Modules,
    request: Request,
    images: UInt8[Array, "batch height width 3"],
    edit_ratio: Float[Array, ""],
    top_k: int,
    seed: Int[Array, ""],
    progress: Progress,
) -> UInt8[Array, "batch height width 3"]:
    """The images, edited towards the texts without a mask.

    The base tokens are resampled a few at a time, then all super-resolution tokens at changed positions.
    """
    tokens = _tokenize(modules, request.params, images)
    conditions = _encode_texts(modules, request)
    base_key, superres_key = jax.random.split(jax.random.key(seed))
    sampling = request.sampling["base"]
    edited = mask_free_edit(
        _logits_fn(modules, request, "base", conditions),
        tokens["base"],
        base_key,
        mask_id=modules.base.vocab_size,
        num_steps=sampling.num_steps,
        edit_ratio=edit_ratio,
        top_k=top_k,
        temperature=sampling.temperature,
        on_step=progress.at("base"),
    )
    if modules.superres is None:
        return _pixels(modules, request.params, {"base": edited})
    base, superres = modules.base, modules.superres
    changed = reduce(edited != tokens["base"], "b (n g) -> b n", "max", g=base.groups)
    changed = _upsample_cells(changed, base.grid, superres.grid)
    changed = repeat(changed, "b n -> b (n g)", g=superres.groups)
    fine = jnp.where(changed, superres.vocab_size, tokens["superres"])
    fine = _sample_stage(modules, request, "superres", conditions, superres_key, progress, fine, (edited,))
    return _pixels(modules, request.params, {"base": edited, "superres": fine})


def _encode_texts(modules: Modules, request: Request) -> Conditions:
    """Encodes prompts and negative prompts in one pass of the text encoder."""
    texts = request.texts
    ids = jnp.concatenate([texts.ids, texts.negative_ids])
    mask = jnp.concatenate([texts.mask, texts.negative_mask])
    states = modules.text.apply({"params": request.params["text"]}, ids, mask)
    batch = texts.ids.shape[0]
    return (states[:batch], texts.mask), (states[batch:], texts.negative_mask)


def _logits_fn(
    modules: Modules, request: Request, stage: str, conditions: Conditions, low: tuple[Any, ...] = ()
) -> LogitsFn:
    network = getattr(modules, stage)
    return guided_logits_fn(
        lambda params, *arguments: network.apply({"params": params}, *arguments, method="linear_logits"),
        request.params[stage],
        (*low, *conditions[0]),
        (*low, *conditions[1]),
        request.sampling[stage].guidance_scale,
    )


def _sample(
    modules: Modules, request: Request, seed: Array, progress: Progress, tokens: dict[str, Array]
) -> Array:
    """Samples the masked tokens of each stage and decodes those of the last one."""
    conditions = _encode_texts(modules, request)
    base_key, superres_key = jax.random.split(jax.random.key(seed))
    sampled = {
        "base": _sample_stage(modules, request, "base", conditions, base_key, progress, tokens["base"])
    }
    if modules.superres is not None:
        low = (sampled["base"],)
        sampled["superres"] = _sample_stage(
            modules, request, "superres", conditions, superres_key, progress, tokens["superres"], low
        )
    return _pixels(modules, request.params, sampled)


def _sample_stage(
    modules: Modules,
    request: Request,
    stage: str,
    conditions: Conditions,
    key: Array,
    progress: Progress,
    tokens: Array,
    low: tuple[Array, ...] = (),
) -> Array:
    network, sampling = getattr(modules, stage), request.sampling[stage]
    return masked_decode(
        _logits_fn(modules, request, stage, conditions, low),
        tokens,
        key,
        mask_id=network.vocab_size,
        num_steps=sampling.num_steps,
        temperature=sampling.temperature,
        choice_temperature=sampling.choice_temperature,
        order=sampling.order,
        grid=entry_grid(network),
        on_step=progress.at(stage),
    )


def _pixels(modules: Modules, params: Mapping[str, Any], tokens: Mapping[str, Array]) -> Array:
    """Decodes the tokens of the last stage."""
    stage = "superres" if "superres" in tokens else "base"
    network, tokenizer = getattr(modules, stage), getattr(modules, f"{stage}_tokenizer")
    ids = token_grid(tokens[stage], network.grid, network.groups)
    return from_unit_range(tokenizer.decode(params[f"{stage}_tokenizer"], ids))


def _tokenize(modules: Modules, params: Mapping[str, Any], images: Array) -> dict[str, Array]:
    """Flat tokens of each stage; the base stage encodes the image at reduced size."""

    def encode(stage: str, pixels: Array) -> Array:
        name = f"{stage}_tokenizer"
        return flat_tokens(getattr(modules, name).encode(params[name], pixels))

    pixels = to_unit_range(images)
    if modules.superres is None:
        return {"base": encode("base", pixels)}
    factor = images.shape[1] // (modules.base.grid[0] * modules.base_tokenizer.downsampling)
    small = reduce(pixels, "b (h p) (w q) c -> b h w c", "mean", p=factor, q=factor)
    return {"base": encode("base", small), "superres": encode("superres", pixels)}


def _entries(mask: Bool[Array, "batch height width"], network: Any) -> Bool[Array, "batch n"]:
    """True for the network's tokens at positions with any pixel of `mask`."""
    return repeat(cells_under(mask, network.grid), "b n -> b (n g)", g=network.groups)


def _upsample_cells(
    cells: Bool[Array, "batch low"], low: tuple[int, ...], high: tuple[int, ...]
) -> Bool[Array, "batch high"]:
    """True for the cells of the grid `high` that are inside the given cells of the grid `low`."""
    p, q = high[0] // low[0], high[1] // low[1]
    return repeat(cells, "b (h w) -> b (h p w q)", h=low[0], w=low[1], p=p, q=q)
