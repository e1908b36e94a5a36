"""Sampling of NUWA's tokens: in raster order or by wavefronts over a cache, or masked tokens in parallel.

The cache is a ring of the last steps, as many as the window reaches back. For the window 3x3x3 that is
height x width + width + 1 steps of one place in raster order, and 7 steps of many places by wavefronts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from muse_jax.nn.heads import LinearLogits, unembed
from muse_jax.nn.nearby import Context, neighbors, sees
from muse_jax.sampling import guided_logits_fn, masked_decode
from muse_jax.sampling.autoregressive import Sampling
from muse_jax.sampling.guidance import halves, pair
from muse_jax.sampling.params import SamplingParams, check_not_negative, check_steps, check_whole, static
from muse_jax.sampling.progress import Progress
from muse_jax.sampling.wavefront import decode_places, raster_schedule, wavefront_schedule
from muse_jax.systems.nuwa.blocks import Places
from muse_jax.systems.nuwa.transformer import NuwaTransformer
from pallas_kernels.masked_sampling import mix_guidance

ORDERS = {"raster": ("raster",), "3d": ("wavefront", "raster"), "none": ("masked",)}
"""The orders that each `shift` of a network allows; the first is the default."""

Condition = tuple[Any, ...]
"""Arguments of the network after the tokens, each with a leading batch axis."""


@struct.dataclass
class NuwaSampling(SamplingParams):
    """Sampling of NUWA's tokens.

    order: "raster", one token after the other; "wavefront", the same tokens in fewer steps; "masked", all
      masked tokens in parallel; "": the fastest that the network was trained for.
    guidance_scale: strength of classifier-free guidance, 0 or greater.
    temperature: of the draw of a token, 0 or greater; 0 takes the most probable one.
    top_k: keep the k most probable codes; 0: all. Not for "masked".
    num_steps: passes of the network, at least 1; for "masked" only.
    choice_temperature: of the noise on which tokens are kept first, 0 or greater; for "masked" only.
    num_candidates: generated per text, of which the one that the checkpoint's ranker finds most similar to
      the text is kept, at least 1; tasks without a text generate one.
    """

    order: str = static("")
    guidance_scale: float = 1.0
    temperature: float = 1.0
    top_k: int = static(0)
    num_steps: int = static(24)
    choice_temperature: float = 4.5
    num_candidates: int = static(1)

    def check(self) -> None:
        check_steps("num_steps", self.num_steps)
        check_steps("num_candidates", self.num_candidates)
        check_whole("top_k", self.top_k, 0)
        for name in ("guidance_scale", "temperature", "choice_temperature"):
            check_not_negative(name, getattr(self, name))
        orders = ("", "raster", "wavefront", "masked")
        if self.order not in orders:
            raise ValueError(f"order must be one of {', '.join(orders[1:])}, given {self.order!r}.")


class Draw(NamedTuple):
    """Inputs of a sampler: flat tokens, those to sample, and the conditions.

    Fields:
      tokens: of whole frames.
      drawn: True where a token is sampled; the others are given and do not change.
      cond, uncond: the conditions and, to guide away from, others; None: no guidance.
    """

    tokens: Int[Array, "batch tokens"]
    drawn: Bool[Array, "batch tokens"]
    cond: Condition
    uncond: Condition | None = None


def find_order(network: NuwaTransformer, order: str) -> str:
    """The order to sample in, the network's default if `order` is "".

    Raises:
      ValueError: if the network was not trained for it.
    """
    known = ORDERS[network.shift]
    if order and order not in known:
        raise ValueError(
            f"order is {order!r}, but a network with shift={network.shift!r} draws in the order "
            f"{' or '.join(known)}: take that, or a network trained with another shift."
        )
    return order or known[0]


def schedule_of(network: NuwaTransformer, order: str, frames: int) -> Int[np.ndarray, "steps places"]:
    """The places of each step of the order "raster" or "wavefront"."""
    grid = (frames, *network.grid[1:])
    return raster_schedule(grid) if order == "raster" else wavefront_schedule(grid, network.windows)


def count_steps(network: NuwaTransformer, sampling: NuwaSampling, frames: int) -> int:
    """The number of steps of `draw_tokens`."""
    order = find_order(network, sampling.order)
    return sampling.num_steps if order == "masked" else len(schedule_of(network, order, frames))


def draw_tokens(
    network: NuwaTransformer,
    params: Any,
    draw: Draw,
    key: Array,
    sampling: NuwaSampling,
    on_step: Progress | None = None,
) -> Int[Array, "batch tokens"]:
    """Draws tokens; those that are not `drawn` are unchanged. Traced."""
    order = find_order(network, sampling.order)
    uncond = draw.uncond
    if order == "masked":

        def apply(params: Any, *inputs: Any) -> LinearLogits:
            return network.apply({"params": params}, *inputs, method="linear_logits")

        return masked_decode(
            guided_logits_fn(apply, params, draw.cond, uncond, sampling.guidance_scale),
            jnp.where(draw.drawn, network.vocab_size, draw.tokens),
            key,
            mask_id=network.vocab_size,
            num_steps=sampling.num_steps,
            temperature=sampling.temperature,
            choice_temperature=sampling.choice_temperature,
            on_step=on_step,
        )
    grid = network.grid_of(draw.tokens.shape[1])
    schedule = schedule_of(network, order, grid[0])
    condition = draw.cond if uncond is None else jax.tree.map(pair, tuple(draw.cond), tuple(uncond))
    scale = None if uncond is None else sampling.guidance_scale
    return decode_places(
        _places_fn(network, params, condition, grid, scale),
        _empty_cache(network, len(condition[0]), grid, schedule),
        draw.tokens,
        draw.drawn,
        key,
        schedule=schedule,
        sampling=Sampling(sampling.temperature, sampling.top_k),
        on_step=on_step,
    )


@struct.dataclass
class Cache:
    """Keys and values of the last steps, a ring.

    Fields:
      step: number of the next step.
      places: in each slot, step by step; -1 in empty ones.
      key, value: of all layers.
    """

    step: Int[Array, ""]
    places: Int[Array, " slots"]
    key: Float[Array, "layers batch heads slots dim"]
    value: Float[Array, "layers batch heads slots dim"]


def _empty_cache(
    network: NuwaTransformer, batch: int, grid: tuple[int, ...], schedule: Int[np.ndarray, "steps places"]
) -> Cache:
    """A ring of as many steps of `schedule` as any window reaches back."""
    step_of = np.zeros(int(np.prod(grid)) + 1, int)
    step_of[schedule] = np.arange(len(schedule))[:, None]
    index, seen = neighbors(grid, network.windows, grid, earlier=True)
    back = np.where(seen, step_of[:-1, None] - step_of[index], 1)
    slots = int(back.max(initial=1)) * schedule.shape[1]
    heads, dim = network.heads, network.width // network.heads
    zeros = jnp.zeros((network.depth, batch, heads, slots, dim), network.dtype)
    return Cache(jnp.int32(0), jnp.full(slots, -1, jnp.int32), zeros, zeros)


def _places_fn(
    network: NuwaTransformer,
    params: Any,
    condition: Condition,
    grid: tuple[int, ...],
    guidance_scale: Float[Array, ""] | float | None,
) -> Callable[..., Any]:
    windows, variables = network.windows, {"params": params}
    conditions: Any = network.apply(variables, *condition, method="conditions")
    context: Context = network.apply(variables, conditions, method="context")
    key_index, key_seen = None, None
    if conditions.grid:
        tables = neighbors(grid, windows, conditions.grid, earlier=False)
        key_index, key_seen = (jnp.asarray(table) for table in tables)

    def places_fn(tokens: Array, places: Array, cache: Cache) -> tuple[Array, Cache]:
        if guidance_scale is not None:
            tokens = jnp.repeat(tokens, 2, axis=0)
        how = Places(
            sees(places, cache.places, grid, windows),
            None if key_index is None else key_index[places],
            None if key_seen is None else key_seen[places],
        )
        memory = ((cache.key, cache.value), context)
        hidden, kept = network.apply(variables, tokens, places, memory, how, method="hidden_at")
        first = cache.step % (len(cache.places) // len(places)) * len(places)
        key, value = (
            jax.lax.dynamic_update_slice_in_dim(part, new.swapaxes(2, 3), first, axis=3)
            for part, new in zip((cache.key, cache.value), kept, strict=True)
        )
        held = jax.lax.dynamic_update_slice_in_dim(cache.places, places, first, axis=0)
        if guidance_scale is not None:
            hidden = mix_guidance(*halves(hidden), guidance_scale)
        logits = unembed(hidden, *network.apply(variables, method="output"))
        return logits, Cache(cache.step + 1, held, key, value)

    return places_fn
