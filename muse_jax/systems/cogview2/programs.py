"""The compiled programs of the CogView2 pipeline: candidates, their ranking, super-resolution and pixels.

Weights, text pieces, images, temperatures, text weights, the seed and the listener are traced. A program is
compiled for its modules, the numbers of candidates and samples, the sizes of filters, and the batch. Prompts
of every length run in one program.
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
from muse_jax.systems.cogview2.sampling import BoundCogLM, caption_cross_entropy, draw_caption, draw_image
from muse_jax.systems.cogview2.sequences import Vocabulary
from muse_jax.systems.cogview2.superres import DirectSuperRes, IterativeSuperRes, join_params
from muse_jax.systems.cogview2.superres_sampling import draw_fine, redraw_fine
from muse_jax.tokenizers import VQGAN


class Modules(NamedTuple):
    """The networks without their weights, which `params` has under the names of the fields."""

    coarse: CogLM
    coarse_tokenizer: VQGAN
    direct: DirectSuperRes | None
    iterative: IterativeSuperRes | None

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of CogLM over the tokenizer's codes."""
        return Vocabulary(self.coarse_tokenizer.codebook_size, self.coarse.vocab_size)


class Text(NamedTuple):
    """Text pieces, and where there are any."""

    ids: Int[Array, "batch text"]
    mask: Bool[Array, "batch text"]


@struct.dataclass
class Draws:
    """How the tokens of each stage are drawn; None for a stage that is not there."""

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
    draws: Draws,
    seed: Int[Array, ""],
    progress: Progress,
) -> UInt8[Array, "batch*num_samples height width 3"]:
    """The `num_samples` of `candidates` images of each text that give it the least perplexity, best first."""
    key, fine_key = jax.random.split(jax.random.key(seed))
    tokens = _draw_coarse(modules, params, _repeat(text, candidates), draws, key, progress)
    if candidates > 1:
        scores = _cross_entropy(modules, params, _repeat(text, candidates), tokens)
        best = jnp.argsort(rearrange(scores, "(b c) -> b c", c=candidates), axis=1)[:, :num_samples, None]
        tokens = jnp.take_along_axis(rearrange(tokens, "(b c) n -> b c n", c=candidates), best, axis=1)
        tokens = rearrange(tokens, "b k n -> (b k) n")
    return _super_resolve(modules, params, _repeat(text, num_samples), draws, fine_key, progress, tokens)


@partial(jax.jit, static_argnames=("modules",))
def inpaint(
    modules: Modules,
    params: dict[str, Any],
    text: Text,
    draws: Draws,
    seed: Int[Array, ""],
    progress: Progress,
    images: UInt8[Array, "batch height width 3"],
    mask: Bool[Array, "batch height width"],
) -> UInt8[Array, "batch height width 3"]:
    """The images, redrawn where `mask` is True; every other pixel is the given one."""
    key, fine_key = jax.random.split(jax.random.key(seed))
    given = _tokenize(modules, params, images, modules.coarse.grid)
    drawn = cells_under(mask, modules.coarse.grid)
    tokens = _draw_coarse(modules, params, text, draws, key, progress, image=given, drawn=drawn)
    region = None
    if modules.direct is not None:
        grid = modules.direct.fine_grid
        region = _tokenize(modules, params, images, grid), cells_under(mask, grid)
    redrawn = _super_resolve(modules, params, text, draws, fine_key, progress, tokens, region)
    return jnp.where(mask[..., None], redrawn, images)


@partial(jax.jit, static_argnames=("modules",))
def super_resolve(
    modules: Modules,
    params: dict[str, Any],
    text: Text,
    draws: Draws,
    seed: Int[Array, ""],
    progress: Progress,
    images: UInt8[Array, "batch low_height low_width 3"],
) -> UInt8[Array, "batch height width 3"]:
    """Coarse images, enlarged by the super-resolution stages."""
    _, key = jax.random.split(jax.random.key(seed))
    tokens = _tokenize(modules, params, images, modules.coarse.grid)
    return _super_resolve(modules, params, text, draws, key, progress, tokens)


@partial(jax.jit, static_argnames=("modules",))
def caption(
    modules: Modules,
    params: dict[str, Any],
    sampling: Sampling,
    seed: Int[Array, ""],
    progress: Progress,
    images: UInt8[Array, "batch height width 3"],
) -> tuple[Int[Array, "batch text"], Bool[Array, "batch text"]]:
    """Text pieces of captions of the images, and where there are any."""
    return draw_caption(
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


def _draw_coarse(modules, params, text, draws, key, progress, **region) -> Int[Array, "batch tokens"]:
    return draw_image(
        BoundCogLM(modules.coarse, params["coarse"], modules.vocabulary),
        text.ids,
        text.mask,
        key,
        sampling=draws.coarse,
        text_weight=draws.text_weight,
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
    draws: Draws,
    key: Array,
    progress: Progress,
    tokens: Int[Array, "batch tokens"],
    region: tuple[Array, Array] | None = None,
) -> UInt8[Array, "batch height width 3"]:
    """The images of coarse tokens, through the super-resolution stages that there are.

    `region`: fine tokens that are given, and which of them are to be drawn (None: all). Those that are kept
    condition every turn of the iterative stage.
    """
    if modules.direct is None or draws.direct is None:
        return _pixels(modules, params, tokens, modules.coarse.grid)
    direct_key, iterative_key = jax.random.split(key)
    weights = join_params(params["coarse"], params["direct"])
    words = _cut(text, modules.direct)
    fine = draw_fine(
        BoundCogLM(modules.direct, weights, modules.vocabulary),
        *words,
        tokens,
        direct_key,
        sampling=draws.direct,
    )
    grid, editable = modules.direct.fine_grid, None
    if region is not None:
        given, editable = region
        fine = jnp.where(editable, fine, given)
    if modules.iterative is not None and draws.iterative is not None:
        fine = redraw_fine(
            BoundCogLM(modules.iterative, params["iterative"], modules.vocabulary),
            *_cut(text, modules.iterative),
            fine,
            iterative_key,
            steps=tile_steps(step_table(modules.direct.factor), grid),
            top_k=draws.iterative.top_k or None,
            temperature=draws.iterative.temperature,
            editable=editable,
            on_step=progress.at("iterative"),
        )
    return _pixels(modules, params, fine, grid)


def _cut(text: Text, network: Any) -> Text:
    """The text cut to the number of pieces that `network` reads."""
    return Text(*(part[:, : network.text_pieces] for part in text))


def _tokenize(modules: Modules, params: Any, images: Array, grid: tuple[int, int]) -> Int[Array, "batch n"]:
    """Tokens on `grid` of images, which are averaged over squares where they are larger."""
    factor = images.shape[1] // (grid[0] * modules.coarse_tokenizer.downsampling)
    small = reduce(to_unit_range(images), "b (h p) (w q) c -> b h w c", "mean", p=factor, q=factor)
    ids = modules.coarse_tokenizer.encode(params["coarse_tokenizer"], small)
    return rearrange(ids, "b h w -> b (h w)")


def _pixels(
    modules: Modules, params: Any, tokens: Array, grid: tuple[int, int]
) -> UInt8[Array, "batch height width 3"]:
    ids = rearrange(tokens, "b (h w) -> b h w", h=grid[0])
    return from_unit_range(modules.coarse_tokenizer.decode(params["coarse_tokenizer"], ids))
