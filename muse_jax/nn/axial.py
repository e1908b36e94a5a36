"""Axial attention: each place of a grid attends to the lines through it along each axis, in one softmax."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


def axial_attention(
    query: Float[Array, "batch places heads dim"],
    key: Float[Array, "batch keys heads dim"],
    value: Float[Array, "batch keys heads dim"],
    *,
    grid: tuple[int, ...],
    key_grid: tuple[int, ...] | None = None,
    causal: bool = False,
    extra_key: Float[Array, "batch extra heads dim"] | None = None,
    extra_value: Float[Array, "batch extra heads dim"] | None = None,
    extra_mask: Bool[Array, "batch extra"] | None = None,
) -> Float[Array, "batch places heads dim"]:
    """Attention of all places of `grid` to the keys that differ from their own place along one axis at most.

    The scores of all lines share a softmax, in float32, so that the parameters are those of nearby attention;
    memory grows with places x the sum of the grid's sizes.

    Args:
      query, key, value: in raster order over `grid`, and over `key_grid`.
      key_grid: `grid` by default. Place i of an axis has its own key at `i * keys // places`.
      causal: leave out keys after the query in raster order; only if `key_grid` equals `grid`.
      extra_key, extra_value, extra_mask: keys that all places see, such as text, where the mask is True.

    Returns:
      an array of the query's shape and dtype.
    """
    key_grid = key_grid or grid
    centres = [np.arange(size) * keys // size for size, keys in zip(grid, key_grid, strict=True)]
    shape = query.shape
    query = query.reshape(shape[0], *grid, *shape[2:])
    scores, values = [], []
    for axis, (size, keys) in enumerate(zip(grid, key_grid, strict=True)):
        lines = [_lines(x, axis, key_grid, centres) for x in (key, value)]
        offset = np.arange(keys) - centres[axis][:, None]
        seen = offset <= 0 if causal else np.ones((size, keys), bool)
        seen &= (offset != 0) | (axis == 0)  # the own place is on every line, and counts once
        score = _product("...ihd,...jhd->...ihj", jnp.moveaxis(query, 1 + axis, -3), lines[0])
        scores.append(jnp.moveaxis(jnp.where(seen[:, None], score, -jnp.inf), -3, 1 + axis))
        values.append(lines[1])
    if extra_key is not None and extra_value is not None:
        score = _product("b...hd,bthd->b...ht", query, extra_key)
        if extra_mask is not None:
            mask = extra_mask.reshape(len(extra_mask), *[1] * (len(grid) + 1), -1)
            score = jnp.where(mask, score, -jnp.inf)
        scores.append(score)
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1) * shape[-1] ** -0.5).astype(value.dtype)
    parts = jnp.split(weights, np.cumsum([score.shape[-1] for score in scores])[:-1], axis=-1)
    out = jnp.zeros(query.shape, jnp.float32)
    for axis, (part, line) in enumerate(zip(parts, values, strict=False)):
        mixed = _product("...ihj,...jhd->...ihd", jnp.moveaxis(part, 1 + axis, -3), line)
        out += jnp.moveaxis(mixed, -3, 1 + axis)
    if extra_value is not None:
        out += _product("b...ht,bthd->b...hd", parts[-1], extra_value)
    return out.reshape(shape).astype(value.dtype)


def _lines(x: Array, axis: int, key_grid: tuple[int, ...], centres: list[np.ndarray]) -> Array:
    """The keys of the lines along `axis`, (batch, other axes of the grid..., keys, heads, dim)."""
    x = x.reshape(x.shape[0], *key_grid, *x.shape[2:])
    for other, centre in enumerate(centres):
        if other != axis and not np.array_equal(centre, np.arange(key_grid[other])):
            x = jnp.take(x, centre, axis=1 + other)
    return jnp.moveaxis(x, 1 + axis, -3)


def _product(equation: str, left: Array, right: Array) -> Array:
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)
