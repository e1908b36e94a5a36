"""Argument specs of local attention as models use it, for tests, tuning and benchmarks."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.local_attention.geometry import Geometry, make_window

Struct = jax.ShapeDtypeStruct
Arguments = tuple[Struct, tuple[Struct, ...], tuple[Struct, ...], tuple[Struct, Struct, Struct] | None]


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes of one call: grids, windows, number of extra keys, heads and features per head."""

    name: str
    grid: tuple[int, ...]
    window: tuple[int, ...]
    key_grid: tuple[int, ...] | None = None
    causal: bool = False
    coarse_grid: tuple[int, ...] | None = None
    coarse_window: tuple[int, ...] = ()
    extra: int = 0
    heads: int = 8
    dim: int = 64

    @property
    def geometry(self) -> Geometry:
        """Grid and windows of the call."""
        windows = [make_window("window", self.grid, self.window, self.key_grid, self.causal)]
        if self.coarse_grid is not None:
            windows.append(make_window("coarse.window", self.grid, self.coarse_window, self.coarse_grid))
        return Geometry(self.grid, tuple(windows))

    def arguments(self, batch: int = 1, dtype: Any = jnp.float32) -> Arguments:
        """Shapes and dtypes of the arguments of `attend`: query, keys, values and extra."""

        def struct(tokens: int) -> Struct:
            return Struct((batch, tokens, self.heads, self.dim), dtype)

        keys = tuple(struct(window.tokens) for window in self.geometry.windows)
        extra = (struct(self.extra), struct(self.extra), Struct((batch, self.extra), jnp.bool_))
        return struct(self.geometry.tokens), keys, keys, extra if self.extra else None


CASES = (
    Case("60x60, window 9x9", (60, 60), (9, 9)),
    Case("60x60, window 9x9, dim 96", (60, 60), (9, 9), dim=96),
    Case("60x60, window 9x9, dim 128", (60, 60), (9, 9), dim=128),
    Case("60x60, window 9x9, causal", (60, 60), (9, 9), causal=True),
    # CogView2's iterative super-resolution attends to the text, the direct one to the coarse image.
    Case("60x60, window 9x5, 16 text", (60, 60), (9, 5), extra=16),
    Case("60x60, window 9x5 and 20x20, 5x5", (60, 60), (9, 5), coarse_grid=(20, 20), coarse_window=(5, 5)),
    Case("60x60 on 20x20, window 5x5", (60, 60), (5, 5), key_grid=(20, 20)),
    Case("64x64, window 9x9", (64, 64), (9, 9)),
    Case("128x128, window 9x9", (128, 128), (9, 9)),
    # NUWA: 10 frames; at 336 pixels 21x21 tokens each, on text or on a sketch of one frame.
    Case("10x21x21, window 3x3x3, causal", (10, 21, 21), (3, 3, 3), causal=True),
    Case("10x21x21 on 1x21x21, window 3x3x3, 77 text", (10, 21, 21), (3, 3, 3), (1, 21, 21), extra=77),
    Case("10x20x20, window 3x3x3, causal", (10, 20, 20), (3, 3, 3), causal=True),
    Case("10x20x20, window 3x3x3, 77 text", (10, 20, 20), (3, 3, 3), extra=77),
)
