"""Local attention by brute force: all queries against all keys, with a mask made position by position."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from pallas_kernels.local_attention.geometry import Geometry, Window

Extra = tuple[Array, Array, Array]  # key and value (batch, extra, heads, dim), mask (batch, extra)


def visible(grid: tuple[int, ...], window: Window) -> Bool[np.ndarray, "tokens keys"]:
    """Mask of the keys that each query sees, both in raster order."""
    mask = np.zeros((int(np.prod(grid)), window.tokens), bool)
    for q, position in enumerate(itertools.product(*map(range, grid))):
        centre = [i // f for i, f in zip(position, window.factor, strict=True)]
        for k, key_place in enumerate(itertools.product(*map(range, window.grid))):
            near = all(abs(j - c) <= r for j, c, r in zip(key_place, centre, window.radii, strict=True))
            mask[q, k] = near and not (window.causal and k > q)
    return mask


def attend(
    query: Float[Array, "batch tokens heads dim"],
    keys: tuple[Float[Array, "batch _ heads dim"], ...],
    values: tuple[Float[Array, "batch _ heads dim"], ...],
    extra: Extra | None,
    geometry: Geometry,
) -> Float[Array, "batch tokens heads dim"]:
    """Attention over the keys of all windows and the extra keys, in float32, with all scores in memory."""
    batch, tokens = query.shape[:2]
    masks = [jnp.asarray(visible(geometry.grid, window)) for window in geometry.windows]
    masks = [jnp.broadcast_to(mask, (batch, *mask.shape)) for mask in masks]
    if extra is not None:
        extra_key, extra_value, extra_mask = extra
        keys, values = (*keys, extra_key), (*values, extra_value)
        masks.append(jnp.broadcast_to(extra_mask[:, None], (batch, tokens, extra_mask.shape[1])))
    query = query.astype(jnp.float32)
    key, value = (jnp.concatenate(parts, axis=1).astype(jnp.float32) for parts in (keys, values))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
    scores = jnp.where(jnp.concatenate(masks, axis=-1)[:, None], scores, -jnp.inf)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), value).astype(values[0].dtype)
