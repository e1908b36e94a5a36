"""Other implementations of local attention, for comparison: masked dense attention, FlexAttention, NATTEN.

The JAX implementations take `(query, keys, values, extra, mask)` in the layout of the kernels' `attend`, with
the mask of `dense_mask`. The PyTorch implementations are made for one case and hold their own tensors.
"""

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.local_attention import find_attend
from pallas_kernels.local_attention.arg_specs import Case
from pallas_kernels.local_attention.geometry import Window

_DEVICE = "cuda"  # for PyTorch


def dense_mask(case: Case) -> np.ndarray:
    """Bool `(tokens, all keys)`: the keys of the windows, then the extra ones."""
    masks = [_window_mask(case.grid, window) for window in case.geometry.windows]
    return np.concatenate([*masks, np.ones((case.geometry.tokens, case.extra), bool)], axis=1)


def _window_mask(grid: tuple[int, ...], window: Window) -> np.ndarray:
    axes = len(grid)
    mask = np.ones((1,) * (2 * axes), bool)
    for axis, (places, keys) in enumerate(zip(grid, window.grid, strict=True)):
        distance = np.abs(np.arange(keys) - (np.arange(places) // window.factor[axis])[:, None])
        near = distance <= window.radii[axis]
        others = tuple(i for i in range(2 * axes) if i not in (axis, axes + axis))
        mask = mask & np.expand_dims(near, others)
    mask = mask.reshape(math.prod(grid), window.tokens)
    return np.tril(mask) if window.causal else mask


def _all_keys(parts: tuple[jax.Array, ...], extra: tuple[jax.Array, ...] | None, which: int) -> jax.Array:
    return jnp.concatenate(parts if extra is None else [*parts, extra[which]], axis=1)


def dense(query, keys, values, extra, mask):
    """Plain masked attention in JAX: all scores, softmax in float32."""
    key, value = _all_keys(keys, extra, 0), _all_keys(values, extra, 1)
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(mask, scores * query.shape[-1] ** -0.5, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, value).transpose(0, 2, 1, 3)


def dot_product(query, keys, values, extra, mask, implementation=None):
    """`jax.nn.dot_product_attention` with the mask."""
    key, value = _all_keys(keys, extra, 0), _all_keys(values, extra, 1)
    return jax.nn.dot_product_attention(
        query, key, value, mask=mask[None, None], implementation=implementation
    )


def cudnn(query, keys, values, extra, mask):
    """`dot_product` with cuDNN, whose fused kernel visits all pairs but stores no scores."""
    return dot_product(query, keys, values, extra, mask, implementation="cudnn")


def attention_forms(names: tuple[str, ...]) -> dict[str, Callable]:
    """Implementations by name, ours and JAX's: case -> function of query, keys, values, extra and mask."""

    def ours(attend):
        return lambda case: lambda q, k, v, extra, mask: attend(q, k, v, extra, case.geometry)

    forms = {f"local_attention ({name})": ours(find_attend(name)) for name in names}
    forms |= {
        "dense, XLA": lambda case: dense,
        "dot_product_attention": lambda case: dot_product,
    }
    if jax.default_backend() == "gpu":
        forms["dot_product_attention, cuDNN"] = lambda case: cudnn
    return forms


def gradients(attend: Callable) -> Callable:
    """Forward and backward pass of `attend` for a cotangent."""

    def run(query, keys, values, extra, mask, cotangent):
        def function(query, keys, values, pair):
            return attend(query, keys, values, None if pair is None else (*pair, extra[2]), mask)

        pair = None if extra is None else extra[:2]
        return jax.vjp(function, query, keys, values, pair)[1](cotangent)

    return run


def has_torch() -> bool:
    """True if PyTorch is installed and has a GPU."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _tensors(arrays: list[Any], order: tuple[int, ...], shape: tuple[int, ...] | None = None) -> list[Any]:
    import torch

    tensors = []
    for array in arrays:
        dtype = getattr(torch, str(array.dtype))
        tensor = torch.from_numpy(np.array(array, np.float32)).to(_DEVICE, dtype)
        tensor = tensor.permute(order).contiguous() if shape is None else tensor.reshape(shape)
        tensors.append(tensor.requires_grad_())
    return tensors


def flex_attention(case: Case, query, keys, values, extra) -> tuple[Callable[[], Any], list[Any], Any]:
    """PyTorch's FlexAttention, compiled, with the same mask.

    Returns:
      A function that returns the output `(batch, heads, tokens, dim)`, the tensors to differentiate, and the
      order of axes that makes the output `(batch, tokens, heads, dim)`.
    """
    import torch
    from torch.nn.attention.flex_attention import create_block_mask
    from torch.nn.attention.flex_attention import flex_attention as flex

    tensors = _tensors([query, _all_keys(keys, extra, 0), _all_keys(values, extra, 1)], order=(0, 2, 1, 3))

    def mask(batch, head, q, k):
        seen, first = k >= sum(window.tokens for window in case.geometry.windows), 0
        for window in case.geometry.windows:
            here = (k >= first) & (k < first + window.tokens)
            place, rest, key_rest = torch.ones_like(q, dtype=torch.bool), q, k - first
            for axis in reversed(range(len(case.grid))):
                i, j = rest % case.grid[axis], key_rest % window.grid[axis]
                rest, key_rest = rest // case.grid[axis], key_rest // window.grid[axis]
                place = place & ((j - i // window.factor[axis]).abs() <= window.radii[axis])
            if window.causal:
                place = place & (k - first <= q)
            seen, first = seen | (here & place), first + window.tokens
        return seen

    blocks = create_block_mask(mask, None, None, tensors[0].shape[2], tensors[1].shape[2], device=_DEVICE)
    compiled = torch.compile(flex)
    return lambda: compiled(*tensors, block_mask=blocks), tensors, (0, 2, 1, 3)


def neighborhood_attention(
    case: Case, query, keys, values
) -> tuple[Callable[[], Any], list[Any], Any] | None:
    """NATTEN, in the form of `flex_attention`; None if it is not installed or lacks such windows.

    NATTEN shifts windows at the edges inwards instead of shortening them, so its values differ there.
    """
    window = case.geometry.windows[0]
    same = len(keys) == 1 and window.grid == case.grid and not window.causal and not case.extra
    if not same or importlib.util.find_spec("natten") is None:
        return None
    import natten

    shape = (query.shape[0], *case.grid, case.heads, case.dim)
    tensors = _tensors([query, *keys, *values], (), shape)
    attend = getattr(natten, f"na{len(case.grid)}d")
    return lambda: attend(*tensors, kernel_size=window.extents), tensors, None
