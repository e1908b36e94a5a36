"""The compiled programs of Muse: text, base tokens, super-resolution tokens and pixels in one each.

What is traced: weights, ids, pictures, scales, temperatures, the seed and who listens. What a program is
compiled for: the modules, the numbers of steps, the orders, and the batch.
"""

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
from muse_jax.systems.muse.masked_transformer import MaskedTransformer
from muse_jax.systems.muse.superres_transformer import SuperResTransformer
from muse_jax.tokenizers import VQGAN, flat_tokens, token_grid


class Modules(NamedTuple):
    """The networks without their weights, whose names in `params` are the fields'."""

    text: nn.Module
    base: MaskedTransformer
    vqgan: VQGAN
    superres: SuperResTransformer | None
    vqgan_superres: VQGAN | None


class Plan(NamedTuple):
    """The static settings of each stage, base first."""

    num_steps: tuple[int, ...]
    order: tuple[str, ...]


class Scales(NamedTuple):
    """The traced settings of one stage."""

    guidance_scale: Float[Array, ""]
    temperature: Float[Array, ""]
    choice_temperature: Float[Array, ""]


class Texts(NamedTuple):
    """Token ids and masks of the prompts, and of what to lead away from (a batch of 1, or the same)."""

    ids: Int[Array, "batch text"]
    mask: Bool[Array, "batch text"]
    negative_ids: Int[Array, "negatives text"]
    negative_mask: Bool[Array, "negatives text"]


# Text states and masks, of the prompts and of what to lead away from.
Conditions = tuple[tuple[Any, Any], tuple[Any, Any]]


@partial(jax.jit, static_argnames=("modules", "plan"))
def generate(
    modules: Modules,
    plan: Plan,
    params: dict[str, Any],
    texts: Texts,
    scales: tuple[Scales, ...],
    seed: Int[Array, ""],
    progress: Progress,
) -> UInt8[Array, "batch height width 3"]:
    """Pictures for the texts; picture i has draws of its own, which depend on the seed and i alone."""
    batch = texts.ids.shape[0]
    tokens = jnp.full((batch, modules.base.num_tokens), modules.base.vocab_size)
    high = None
    if modules.superres is not None:
        high = jnp.full((batch, modules.superres.num_tokens), modules.superres.vocab_size)
    return _draw(
        modules, plan, params, _encode_texts(modules, params, texts), scales, seed, progress, tokens, high
    )


@partial(jax.jit, static_argnames=("modules", "plan"))
def inpaint(
    modules: Modules,
    plan: Plan,
    params: dict[str, Any],
    texts: Texts,
    scales: tuple[Scales, ...],
    seed: Int[Array, ""],
    progress: Progress,
    images: UInt8[Array, "batch height width 3"],
    mask: Bool[Array, "batch height width"],
) -> UInt8[Array, "batch height width 3"]:
    """Pictures redrawn where `mask` is True; every other pixel is the given one."""
    tokens, high = _tokenize(modules, params, images)
    tokens = jnp.where(_entries(mask, modules.base), modules.base.vocab_size, tokens)
    if modules.superres is not None:
        high = jnp.where(_entries(mask, modules.superres), modules.superres.vocab_size, high)
    conditions = _encode_texts(modules, params, texts)
    drawn = _draw(modules, plan, params, conditions, scales, seed, progress, tokens, high)
    return jnp.where(mask[..., None], drawn, images)


@partial(jax.jit, static_argnames=("modules", "plan", "top_k"))
def edit(
    modules: Modules,
    plan: Plan,
    params: dict[str, Any],
    texts: Texts,
    scales: tuple[Scales, ...],
    seed: Int[Array, ""],
    progress: Progress,
    images: UInt8[Array, "batch height width 3"],
    share: Float[Array, ""],
    top_k: int,
) -> UInt8[Array, "batch height width 3"]:
    """Pictures led towards the texts without a mask.

    The base tokens are redrawn a few at a time; then the super-resolution tokens that lie under changed ones.
    """
    tokens, high = _tokenize(modules, params, images)
    conditions = _encode_texts(modules, params, texts)
    base_key, superres_key = jax.random.split(jax.random.key(seed))
    edited = mask_free_edit(
        _logits_fn(modules.base, params["base"], conditions, scales[0]),
        tokens,
        base_key,
        mask_id=modules.base.vocab_size,
        num_steps=plan.num_steps[0],
        edit_ratio=share,
        top_k=top_k,
        temperature=scales[0].temperature,
        on_step=progress.at("base"),
    )
    if modules.superres is None:
        return _pixels(modules, params, edited, None)
    changed = reduce(edited != tokens, "b (n g) -> b n", "max", g=modules.base.groups)
    changed = _enlarge(changed, modules.base.grid, modules.superres.grid)
    changed = repeat(changed, "b n -> b (n g)", g=modules.superres.groups)
    high = jnp.where(changed, modules.superres.vocab_size, high)
    high = _draw_superres(modules, plan, params, conditions, scales[1], superres_key, progress, edited, high)
    return _pixels(modules, params, edited, high)


def _encode_texts(modules: Modules, params: Any, texts: Texts) -> Conditions:
    """States of prompts and negatives, from one pass of the text encoder."""
    ids = jnp.concatenate([texts.ids, texts.negative_ids])
    mask = jnp.concatenate([texts.mask, texts.negative_mask])
    states = modules.text.apply({"params": params["text"]}, ids, mask)
    batch = texts.ids.shape[0]
    return (states[:batch], texts.mask), (states[batch:], texts.negative_mask)


def _logits_fn(
    network: Any, params: Any, conditions: Conditions, scales: Scales, low: tuple[Any, ...] = ()
) -> LogitsFn:
    return guided_logits_fn(
        lambda params, *arguments: network.apply({"params": params}, *arguments, method="linear_logits"),
        params,
        (*low, *conditions[0]),
        (*low, *conditions[1]),
        scales.guidance_scale,
    )


def _draw(modules, plan, params, conditions, scales, seed, progress, tokens, high) -> Array:
    """Draws what is masked in `tokens`, then in `high`, and decodes."""
    base_key, superres_key = jax.random.split(jax.random.key(seed))
    tokens = masked_decode(
        _logits_fn(modules.base, params["base"], conditions, scales[0]),
        tokens,
        base_key,
        mask_id=modules.base.vocab_size,
        num_steps=plan.num_steps[0],
        temperature=scales[0].temperature,
        choice_temperature=scales[0].choice_temperature,
        order=plan.order[0],
        grid=entry_grid(modules.base),
        on_step=progress.at("base"),
    )
    if modules.superres is not None:
        high = _draw_superres(
            modules, plan, params, conditions, scales[1], superres_key, progress, tokens, high
        )
    return _pixels(modules, params, tokens, high)


def _draw_superres(modules, plan, params, conditions, scales, key, progress, tokens, high) -> Array:
    return masked_decode(
        _logits_fn(modules.superres, params["superres"], conditions, scales, (tokens,)),
        high,
        key,
        mask_id=modules.superres.vocab_size,
        num_steps=plan.num_steps[1],
        temperature=scales.temperature,
        choice_temperature=scales.choice_temperature,
        order=plan.order[1],
        grid=entry_grid(modules.superres),
        on_step=progress.at("superres"),
    )


def _pixels(modules: Modules, params: Any, tokens: Array, high: Array | None) -> Array:
    """The pictures of the last stage's tokens."""
    name = "vqgan" if high is None else "vqgan_superres"
    network: Any = modules.base if high is None else modules.superres
    ids = token_grid(tokens if high is None else high, network.grid, network.groups)
    return from_unit_range(getattr(modules, name).decode(params[name], ids))


def _tokenize(modules: Modules, params: Any, images: Array) -> tuple[Array, Any]:
    """Flat tokens of both stages, None for one that is not there.

    The small picture is the mean over squares of the large one.
    """

    def encode(name: str, pixels: Array) -> Array:
        return flat_tokens(getattr(modules, name).encode(params[name], pixels))

    pixels = to_unit_range(images)
    if modules.superres is None:
        return encode("vqgan", pixels), None
    factor = images.shape[1] // (modules.base.grid[0] * modules.vqgan.downsampling)
    small = reduce(pixels, "b (h p) (w q) c -> b h w c", "mean", p=factor, q=factor)
    return encode("vqgan", small), encode("vqgan_superres", pixels)


def touched(mask: Bool[Array, "batch height width"], grid: tuple[int, int]) -> Bool[Array, "batch n"]:
    """The cells of `grid` that hold any pixel of `mask`."""
    return reduce(mask, "b (h p) (w q) -> b (h w)", "max", h=grid[0], w=grid[1])


def _entries(mask: Bool[Array, "batch height width"], network: Any) -> Bool[Array, "batch n"]:
    """The network's tokens whose position holds any pixel of `mask`."""
    return repeat(touched(mask, network.grid), "b n -> b (n g)", g=network.groups)


def _enlarge(cells: Bool[Array, "batch low"], low: tuple[int, ...], high: tuple[int, ...]) -> Array:
    """The cells of the grid `high` that lie under the given ones of the grid `low`."""
    p, q = high[0] // low[0], high[1] // low[1]
    return repeat(cells, "b (h w) -> b (h p w q)", h=low[0], w=low[1], p=p, q=q)
