"""Sampling of NUWA's tokens: in raster order or by wavefronts over a cache, or masked tokens in parallel.

Raster order keeps the keys and values of the last places only, as many as the window reaches back: height x
width + width + 1 of them for the window 3x3x3. Wavefronts keep all.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from muse_jax.nn.heads import LinearLogits, unembed
from muse_jax.nn.nearby import Context, neighbors
from muse_jax.sampling import guided_logits_fn, masked_decode
from muse_jax.sampling.autoregressive import Sampling
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
    """

    order: str = static("")
    guidance_scale: float = 1.0
    temperature: float = 1.0
    top_k: int = static(0)
    num_steps: int = static(24)
    choice_temperature: float = 4.5

    def check(self) -> None:
        check_steps("num_steps", self.num_steps)
        check_whole("top_k", self.top_k, 0)
        for name in ("guidance_scale", "temperature", "choice_temperature"):
            check_not_negative(name, getattr(self, name))
        orders = ("", "raster", "wavefront", "masked")
        if self.order not in orders:
            raise ValueError(f"order must be one of {', '.join(orders[1:])}, given {self.order!r}.")


class Draw(NamedTuple):
    """What is drawn: flat tokens where `drawn` is True, given the others and the conditions.

    Fields:
      tokens, drawn: of whole frames.
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
    return raster_schedule(grid) if order == "raster" else wavefront_schedule(grid, network.window)


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
    frames = network.grid_of(draw.tokens.shape[1])[0]
    schedule = schedule_of(network, order, frames)
    condition = draw.cond if uncond is None else jax.tree.map(_pair, tuple(draw.cond), tuple(uncond))
    scale = None if uncond is None else sampling.guidance_scale
    return decode_places(
        _places_fn(network, params, condition, frames, scale, ring=order == "raster"),
        _empty_cache(network, condition, frames, ring=order == "raster"),
        draw.tokens,
        draw.drawn,
        key,
        schedule=schedule,
        sampling=Sampling(sampling.temperature, sampling.top_k),
        on_step=on_step,
    )


def _pair(cond: Array, uncond: Array) -> Array:
    """Both conditions of a sample side by side, (2 batch, ...)."""
    both = jnp.stack([cond, jnp.broadcast_to(uncond, cond.shape).astype(cond.dtype)], axis=1)
    return both.reshape(-1, *cond.shape[1:])


def _reach(network: NuwaTransformer, grid: tuple[int, ...]) -> int:
    """How many places before a place its window reaches back."""
    index, seen = neighbors(grid, tuple(network.window), grid, earlier=True)
    back = np.where(seen, np.arange(len(index))[:, None] - index, 1)
    return int(back.max(initial=1))


def _empty_cache(
    network: NuwaTransformer, condition: Condition, frames: int, ring: bool
) -> tuple[Array, Array]:
    """Keys and values (layers, batch, slots, heads, dim); of place n in slot n % slots."""
    grid = (frames, *network.grid[1:])
    slots = _reach(network, grid) if ring else int(np.prod(grid))
    shape = (network.depth, len(condition[0]), slots, network.heads, network.width // network.heads)
    return jnp.zeros(shape, network.dtype), jnp.zeros(shape, network.dtype)


def _places_fn(
    network: NuwaTransformer,
    params: Any,
    condition: Condition,
    frames: int,
    guidance_scale: Float[Array, ""] | float | None,
    ring: bool,
) -> Callable[..., Any]:
    grid, window, variables = (frames, *network.grid[1:]), tuple(network.window), {"params": params}
    count = int(np.prod(grid))
    conditions: Any = network.apply(variables, *condition, method="conditions")
    context: Context = network.apply(variables, conditions, method="context")
    index, seen = (jnp.asarray(table) for table in neighbors(grid, window, grid, earlier=True))
    key_index, key_seen = None, None
    if conditions.grid:
        tables = neighbors(grid, window, conditions.grid, earlier=False)
        key_index, key_seen = (jnp.asarray(table) for table in tables)

    def places_fn(tokens: Array, places: Array, cache: tuple[Array, Array]) -> tuple[Array, Any]:
        slots = cache[0].shape[2]
        if guidance_scale is not None:
            tokens = jnp.repeat(tokens, 2, axis=0)
        how = Places(
            seen[places],
            None if key_index is None else key_index[places],
            None if key_seen is None else key_seen[places],
        )
        earlier = tuple(part[:, :, index[places] % slots] for part in cache)
        hidden, kept = network.apply(variables, tokens, places, (earlier, context), how, method="hidden_at")
        where = jnp.where(places < count, places % slots, slots)
        key, value = (
            part.at[:, :, where].set(new, mode="drop") for part, new in zip(cache, kept, strict=True)
        )
        if guidance_scale is not None:
            both = hidden.reshape(-1, 2, *hidden.shape[1:])
            hidden = mix_guidance(both[:, 0], both[:, 1], guidance_scale)
        return unembed(hidden, *network.apply(variables, method="output")), (key, value)

    return places_fn
