"""Rendering of drawings at a common size, and removal of near-duplicates."""

from __future__ import annotations

import dataclasses
import io
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from muse_jax.data.icons.drawings import Drawing

SIZE = 128
MARGIN = 4
_GIST = 16
# Two drawings are duplicates if the root mean square difference of their gists (0 to 255) is below this.
NEAR = 7.0
_BLOCK = 1024  # rows of the distance matrix computed at a time
_CHUNK = 64  # drawings rendered by a process at a time


@dataclasses.dataclass(frozen=True)
class Rendering:
    """A drawing as pixels.

    Attributes:
      drawing: the rendered drawing.
      png: `SIZE` x `SIZE` pixels, RGBA for a coloured drawing, grey (0) and alpha for a single-colour one.
      gist: flattened thumbnail of 16x16 pixels on white, to find near-duplicates.
      parts: number of connected components after closing gaps of less than a tenth of the side; 1 for a
        coloured drawing.
    """

    drawing: Drawing
    png: bytes
    gist: UInt8[np.ndarray, " gist"]
    parts: int


def _rasterize(drawing: Drawing, size: int) -> Image.Image:
    """Renders the drawing's box, centred in a transparent square of `size` pixels."""
    import resvg_py

    left, top, width, height = drawing.box
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{size}" height="{size}" viewBox="{left} {top} {width} {height}">{drawing.body}</svg>'
    )
    data = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(data))).convert("RGBA")


def render(drawing: Drawing) -> Rendering | None:
    """Renders a drawing centred, with a longer side of `SIZE - 2 * MARGIN` pixels; None if it is invisible.

    Raises:
      ValueError: the SVG cannot be parsed.
    """
    image = _rasterize(drawing, SIZE * 3 // 2)
    box = image.getchannel("A").point([255 * (level > 16) for level in range(256)]).getbbox()
    if box is None:
        return None
    left, top, right, bottom = box
    longer = max(right - left, bottom - top)
    left, top = (left + right - longer) // 2, (top + bottom - longer) // 2
    square = image.crop((left, top, left + longer, top + longer))
    inner = SIZE - 2 * MARGIN
    centred = Image.new("RGBA", (SIZE, SIZE))
    centred.paste(square.resize((inner, inner), Image.Resampling.HAMMING), (MARGIN, MARGIN))
    return _rendering(drawing, centred)


def _rendering(drawing: Drawing, image: Image.Image) -> Rendering:
    white = Image.new("RGBA", image.size, "white")
    if drawing.coloured:
        shown, stored, parts = Image.alpha_composite(white, image).convert("RGB"), image, 1
    else:
        alpha = _opaque(image.getchannel("A"))
        shown, stored = alpha, Image.merge("LA", (Image.new("L", image.size), alpha))
        parts = count_parts(np.asarray(alpha), SIZE // 10)
    gist = np.asarray(shown.resize((_GIST, _GIST), Image.Resampling.BOX)).ravel()
    buffer = io.BytesIO()
    stored.save(buffer, format="PNG")
    return Rendering(drawing, buffer.getvalue(), gist, parts)


def _opaque(alpha: Image.Image) -> Image.Image:
    """Scales an alpha channel so that its maximum is fully opaque."""
    highest = int(np.asarray(alpha).max())
    return alpha.point([min(255, round(level * 255 / highest)) for level in range(256)])


def count_parts(alpha: UInt8[np.ndarray, "height width"], gap: int) -> int:
    """Number of components of an image that are at least `gap` pixels apart, also diagonally."""
    from scipy import ndimage

    closed = ndimage.maximum_filter(alpha > 96, size=gap)
    return int(ndimage.label(closed, structure=np.ones((3, 3)))[1])


def _render_all(drawings: Sequence[Drawing]) -> list[Rendering]:
    return [rendering for rendering in map(render, drawings) if rendering is not None]


def render_all(drawings: Sequence[Drawing], processes: int | None = None) -> list[Rendering]:
    """Renders drawings in parallel, by default with one process per core; the order is kept."""
    chunks = [drawings[start : start + _CHUNK] for start in range(0, len(drawings), _CHUNK)]
    processes = max(1, min(processes or os.cpu_count() or 1, len(chunks)))
    renderings: list[Rendering] = []
    with (
        tqdm(total=len(drawings), desc="render", unit="drawing") as bar,
        ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool,
    ):
        apply = pool.map if processes > 1 else map
        for chunk, rendered in zip(chunks, apply(_render_all, chunks), strict=True):
            renderings += rendered
            bar.update(len(chunk))
    return renderings


def _kin(rendering: Rendering) -> tuple[str, str]:
    return rendering.drawing.name.split("/")[0], rendering.drawing.concept


def drop_near_equal(renderings: Sequence[Rendering], near: float = NEAR) -> list[Rendering]:
    """Removes near-duplicates of earlier renderings.

    Coloured and single-colour drawings are compared separately. Different weights of an icon in the same set
    may look alike.
    """
    kept = []
    for coloured in (True, False):
        group = [r for r in renderings if r.drawing.coloured == coloured]
        dropped = _near_earlier(group, near)
        kept += [r for r, drop in zip(group, dropped, strict=True) if not drop]
    return kept


def _near_earlier(group: Sequence[Rendering], near: float) -> np.ndarray:
    """Mask of the renderings that are near-duplicates of earlier ones that are kept."""
    dropped = np.zeros(len(group), bool)
    if not group:
        return dropped
    gists = np.stack([rendering.gist for rendering in group]).astype(np.float32)
    gists -= gists.mean(axis=0)
    squares = np.einsum("ij,ij->i", gists, gists)
    limit = near**2 * gists.shape[1]
    for start in range(0, len(group), _BLOCK):
        stop = min(start + _BLOCK, len(group))
        distance = squares[start:stop, None] + squares[:stop] - 2 * gists[start:stop] @ gists[:stop].T
        for row, column in np.argwhere(distance < limit):
            index = start + row
            if column < index and not dropped[column] and _kin(group[index]) != _kin(group[column]):
                dropped[index] = True
    return dropped
