"""The compiled program of NUWA's pipeline: one function of a condition and clamped tokens for all tasks."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Int, UInt8

from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.sampling import Progress
from muse_jax.systems.base import cells_under
from muse_jax.systems.nuwa.ranker import VideoRanker, best_clips, repeat_rows
from muse_jax.systems.nuwa.sampling import Draw, NuwaSampling, draw_tokens
from muse_jax.systems.nuwa.transformer import NuwaTransformer
from muse_jax.tokenizers import VQGAN


class Modules(NamedTuple):
    """The networks without their weights, which `params` has under the names of the fields."""

    text: nn.Module
    base: NuwaTransformer
    base_tokenizer: VQGAN
    ranker: VideoRanker | None = None


class Texts(NamedTuple):
    """Token ids and mask of texts."""

    ids: Int[Array, "batch text"]
    mask: Bool[Array, "batch text"]


class Given(NamedTuple):
    """Clips of which the pixels under `mask` are drawn; the tokens of all others are clamped."""

    clips: UInt8[Array, "batch frames height width 3"]
    mask: Bool[Array, "batch frames height width"]


class Request(NamedTuple):
    """The traced inputs.

    Fields:
      prompts: one for each clip; of the empty text where a task reads none.
      negative: to guide away from, one for all; None: no guidance.
      sketches: condition on a grid, clips; None without.
      given: known clips; None: all is drawn.
    """

    params: Mapping[str, Any]
    sampling: NuwaSampling
    prompts: Texts
    negative: Texts | None = None
    sketches: UInt8[Array, "batch frames height width 3"] | None = None
    given: Given | None = None


@partial(jax.jit, static_argnames=("modules", "frames"))
def draw_clips(
    modules: Modules, request: Request, frames: int, seed: Int[Array, ""], progress: Progress
) -> UInt8[Array, "batch frames height width 3"]:
    """Clips of `frames` frames, for each prompt the best of `request.sampling.num_candidates`.

    The draws of clip i depend on the seed, the number of candidates and on i only.
    """
    base, params = modules.base, request.params
    candidates = request.sampling.num_candidates
    text = _text_states(modules, params, request.prompts)
    states, given, sketches = repeat_rows((text, request.given, request.sketches), candidates)
    batch = len(states[1])
    if given is None:
        tokens = jnp.zeros((batch, frames * base.frame_tokens), jnp.int32)
        drawn = jnp.ones(tokens.shape, bool)
    else:
        tokens = _encode(modules, params, given.clips).reshape(batch, -1)
        mask = rearrange(given.mask, "b s h w -> (b s) h w")
        drawn = cells_under(mask, base.grid[1:]).reshape(batch, -1)
    grids = () if sketches is None else (_encode(modules, params, sketches),)
    cond = (*states, *grids)
    uncond = None
    if request.negative is not None:
        uncond = (*_text_states(modules, params, request.negative), *grids)
    key = jax.random.key(seed)
    draw = Draw(tokens, drawn, cond, uncond)
    tokens = draw_tokens(base, params["base"], draw, key, request.sampling, progress.at("base"))
    ids = rearrange(tokens, "b (s h w) -> (b s) h w", h=base.grid[1], w=base.grid[2])
    pixels = from_unit_range(modules.base_tokenizer.decode(params["base_tokenizer"], ids))
    clips = rearrange(pixels, "(b s) h w c -> b s h w c", b=batch)
    if given is not None:
        clips = jnp.where(given.mask[..., None], clips, given.clips)
    if modules.ranker is None or candidates == 1:
        return clips
    return best_clips(modules.ranker, params["ranker"], clips, text)


def _encode(modules: Modules, params: Any, clips: Array) -> Int[Array, "b s h w"]:
    """Tokens of clips, frame by frame."""
    frames = to_unit_range(rearrange(clips, "b s h w c -> (b s) h w c"))
    ids = modules.base_tokenizer.encode(params["base_tokenizer"], frames)
    return rearrange(ids, "(b s) h w -> b s h w", b=len(clips))


def _text_states(modules: Modules, params: Any, texts: Texts) -> tuple[Any, Array]:
    return modules.text.apply({"params": params["text"]}, *texts), texts.mask
