"""Compiled programs of the CogView2 pipeline: candidates, their ranking, super-resolution and pixels.

Weights, text pieces, images, temperatures, text weights, the seed and the progress callback are traced. A
program is compiled for its modules, the numbers of candidates and samples, the static sampling parameters and
the batch size. One program serves prompts of every length.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt8

from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.sampling import Progress, Sampling, step_table, tile_steps
from muse_jax.sampling.params import LoparSampling
from muse_jax.systems.base import cells_under
from muse_jax.systems.cogview2.coglm import CogLM
from muse_jax.systems.cogview2.sampling import (
    BoundCogLM,
    caption_cross_entropy,
    sample_caption,
    sample_image_tokens,
)
from muse_jax.systems.cogview2.sequences import Vocabulary
from muse_jax.systems.cogview2.superres import DirectSuperRes, IterativeSuperRes, join_params
from muse_jax.systems.cogview2.superres_sampling import refine_tokens, sample_fine_tokens
from muse_jax.tokenizers import VQGAN


class Modules(NamedTuple):
    """Modules without their weights, which `params` holds under the same names."""

    coarse: CogLM
    coarse_tokenizer: VQGAN
    direct: DirectSuperRes | None
    iterative: IterativeSuperRes | None

    @property
    def vocabulary(self) -> Vocabulary:
        """Vocabulary of CogLM, with the tokenizer's codes."""
        return Vocabulary(self.coarse_tokenizer.codebook_size, self.coarse.vocab_size)


class Text(NamedTuple):
    """Ids of text pieces, and a mask that is True for pieces and False for padding."""

    ids: Int[Array, "batch text"]
    mask: Bool[Array, "batch text"]


@struct.dataclass
class StageSampling:
    """Sampling of the tokens of each stage; None for a stage that the pipeline lacks."""

    coarse: Sampling
    text_weight: Float[Array, ""]
    direct: Sampling | None
    iterative: LoparSampling | None


@partial(jax.jit, static_argnames=("modules", "candidates", "num_samples"))
def generate(
    modules: Modules,
    candidates: int,
    num_samples: int,
    params: dict[str, Any],
    text: Text,
    sampling: StageSampling,
    seed: Int[Array, ""],
    progress: Progress,
) -> UInt8[Array, "batch*num_samples height width 3"]:
    """The `num_samples` of `candidates` images per text with the lowest perplexity, best first."""
    key, fine_key = jax.random.split(jax.random.key(seed))
    tokens = _sample_coarse(modules, params, _repeat(text, candidates), sampling, key, progress)
    if candidates > 1:
        scores = _cross_entropy(modules, params, _repeat(text, candidates), tokens)
        best = jnp.argsort(rearrange(scores, "(b c) -> b c", c=candidates), axis=1)[:, :num_samples, None]
        tokens = jnp.take_along_axis(rearrange(tokens, "(b c) n -> b c n", c=candidates), best, axis=1)
        tokens = rearrange(tokens, "b k n -> (b k) n")
    return _super_resolve(modules, params, _repeat(text, num_samples), sampling, fine_key, progress, tokens)


@partial(jax.jit, static_argnames=("modules",))
def inpaint(
    modules: Modules,
    params: dict[str, Any],
    text: Text,
    sampling: StageSampling,
    seed: Int[Array, ""],
    progress: Progress,
    images: UInt8[Array, "batch height width 3"],
    mask: Bool[Array, "batch height width"],
) -> UInt8[Array, "batch height width 3"]:
    """The images with new pixels where `mask` is True; all other pixels are unchanged."""
    key, fine_key = jax.random.split(jax.random.key(seed))
    given = _tokenize(modules, params, images, modules.coarse.grid)
    region = cells_under(mask, modules.coarse.grid)
    tokens = _sample_coarse(modules, params, text, sampling, key, progress, image=given, region=region)
    fine = None
    if modules.direct is not None:
        grid = modules.direct.fine_grid
        fine = _tokenize(modules, params, images, grid), cells_under(mask, grid)
    inpainted = _super_resolve(modules, params, text, sampling, fine_key, progress, tokens, fine)
    return jnp.where(mask[..., None], inpainted, images)


@partial(jax.jit, static_argnames=("modules",))
def super_resolve(
    modules: Modules,
    params: dict[str, Any],
    text: Text,
    sampling: StageSampling,
    seed: Int[Array, ""],
    progress: Progress,
    images: UInt8[Array, "batch low_height low_width 3"],
) -> UInt8[Array, "batch height width 3"]:
    """Enlarges coarse images by the super-resolution stages."""
    _, key = jax.random.split(jax.random.key(seed))
    tokens = _tokenize(modules, params, images, modules.coarse.grid)
    return _super_resolve(modules, params, text, sampling, key, progress, tokens)


@partial(jax.jit, static_argnames=("modules",))
def caption(
    modules: Modules,
    params: dict[str, Any],
    sampling: Sampling,
    seed: Int[Array, ""],
    progress: Progress,
    images: UInt8[Array, "batch height width 3"],
) -> tuple[Int[Array, "batch text"], Bool[Array, "batch text"]]:
    """Text pieces of captions of the images, and their mask."""
    return sample_caption(
        BoundCogLM(modules.coarse, params["coarse"], modules.vocabulary),
        _tokenize(modules, params, images, modules.coarse.grid),
        jax.random.key(seed),
        sampling=sampling,
        on_step=progress.at("caption"),
    )


@partial(jax.jit, static_argnames=("modules",))
def score(
    modules: Modules, params: dict[str, Any], text: Text, images: UInt8[Array, "batch height width 3"]
) -> Float[Array, " batch"]:
    """Perplexity of each text given its image."""
    return jnp.exp(
        _cross_entropy(modules, params, text, _tokenize(modules, params, images, modules.coarse.grid))
    )


def _repeat(text: Text, times: int) -> Text:
    return Text(*(repeat(part, "b t -> (b c) t", c=times) for part in text))


def _sample_coarse(modules, params, text, sampling, key, progress, **region) -> Int[Array, "batch tokens"]:
    return sample_image_tokens(
        BoundCogLM(modules.coarse, params["coarse"], modules.vocabulary),
        text.ids,
        text.mask,
        key,
        sampling=sampling.coarse,
        text_weight=sampling.text_weight,
        on_step=progress.at("coarse"),
        **region,
    )


def _cross_entropy(modules: Modules, params: Any, text: Text, tokens: Array) -> Float[Array, " batch"]:
    return caption_cross_entropy(
        BoundCogLM(modules.coarse, params["coarse"], modules.vocabulary), text.ids, text.mask, tokens
    )


def _super_resolve(
    modules: Modules,
    params: Any,
    text: Text,
    sampling: StageSampling,
    key: Array,
    progress: Progress,
    tokens: Int[Array, "batch tokens"],
    region: tuple[Array, Array] | None = None,
) -> UInt8[Array, "batch height width 3"]:
    """Enlarges coarse tokens by the available super-resolution stages, and decodes the result.

    Args:
      modules, params, text, sampling, key, progress: see `generate`.
      tokens: coarse tokens.
      region: given fine tokens, and a mask of those to sample; the others condition every iteration. None:
        all tokens are sampled.
    """
    if modules.direct is None or sampling.direct is None:
        return _pixels(modules, params, tokens, modules.coarse.grid)
    direct_key, iterative_key = jax.random.split(key)
    weights = join_params(params["coarse"], params["direct"])
    words = _cut(text, modules.direct)
    fine = sample_fine_tokens(
        BoundCogLM(modules.direct, weights, modules.vocabulary),
        *words,
        tokens,
        direct_key,
        sampling=sampling.direct,
    )
    grid, editable = modules.direct.fine_grid, None
    if region is not None:
        given, editable = region
        fine = jnp.where(editable, fine, given)
    if modules.iterative is not None and sampling.iterative is not None:
        fine = refine_tokens(
            BoundCogLM(modules.iterative, params["iterative"], modules.vocabulary),
            *_cut(text, modules.iterative),
            fine,
            iterative_key,
            steps=tile_steps(step_table(modules.direct.factor), grid),
            top_k=sampling.iterative.top_k or None,
            temperature=sampling.iterative.temperature,
            editable=editable,
            on_step=progress.at("iterative"),
        )
    return _pixels(modules, params, fine, grid)


def _cut(text: Text, network: Any) -> Text:
    """Cuts the text to the number of pieces that `network` reads."""
    return Text(*(part[:, : network.text_pieces] for part in text))


def _tokenize(modules: Modules, params: Any, images: Array, grid: tuple[int, int]) -> Int[Array, "batch n"]:
    """Tokens of images on `grid`; larger images are averaged over squares first."""
    factor = images.shape[1] // (grid[0] * modules.coarse_tokenizer.downsampling)
    small = reduce(to_unit_range(images), "b (h p) (w q) c -> b h w c", "mean", p=factor, q=factor)
    ids = modules.coarse_tokenizer.encode(params["coarse_tokenizer"], small)
    return rearrange(ids, "b h w -> b (h w)")


def _pixels(
    modules: Modules, params: Any, tokens: Array, grid: tuple[int, int]
) -> UInt8[Array, "batch height width 3"]:
    ids = rearrange(tokens, "b (h w) -> b h w", h=grid[0])
    return from_unit_range(modules.coarse_tokenizer.decode(params["coarse_tokenizer"], ids))
