"""Rendering of drawings: strips of frames of the animated ones, transparent squares of those that move."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

from PIL import Image
from tqdm import tqdm

from muse_jax.data.motion.drawings import Drawing
from muse_jax.data.motion.moves import SIZE
from muse_jax.data.motion.smil import AnimatedDrawing
from muse_jax.data.motion.weather import SKETCH_STYLE

FPS = 8.0
STORED_FRAMES = 16
# All animations have begun before this time, and all of their periods are repeated from then on.
_START = 12.0
# The part of the 128x128 units that the icons use.
_VIEW = "14 10 106 106"
# Clouds are white and sketches are black: each is drawn on what it stands out from.
SKY = "#1f2a48"
_CHUNK = 16  # drawings rendered by a process at a time


def render_weather(drawing: Drawing) -> bytes:
    """Renders `STORED_FRAMES` frames at `FPS`, one below the other, as an RGB PNG of 64 pixels in width."""
    background = "#ffffff" if drawing.style == SKETCH_STYLE else SKY
    animated = AnimatedDrawing(re.sub(r'viewBox="[^"]*"', f'viewBox="{_VIEW}"', drawing.svg, count=1))
    strip = Image.new("RGB", (SIZE, STORED_FRAMES * SIZE))
    for frame in range(STORED_FRAMES):
        image = _rasterize(animated.at(_START + frame / FPS), SIZE, background)
        strip.paste(image.convert("RGB"), (0, frame * SIZE))
    return _png(strip)


def render_sprite(drawing: Drawing) -> bytes:
    """Renders a drawing, cut to what is visible and centred, as a transparent RGBA PNG of 64 x 64 pixels."""
    image = _rasterize(drawing.svg, 2 * SIZE)
    left, top, right, bottom = image.getchannel("A").getbbox() or (0, 0, *image.size)
    longer = max(right - left, bottom - top)
    left, top = (left + right - longer) // 2, (top + bottom - longer) // 2
    square = image.crop((left, top, left + longer, top + longer))
    return _png(square.resize((SIZE, SIZE), Image.Resampling.HAMMING))


def _rasterize(svg: str, size: int, background: str | None = None) -> Image.Image:
    import resvg_py

    svg = svg.replace("<svg ", f'<svg width="{size}" height="{size}" ', 1)
    data = resvg_py.svg_to_bytes(svg_string=svg, background=background, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(data))).convert("RGBA")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def render_all(
    render: Callable[[Drawing], bytes], drawings: Sequence[Drawing], title: str
) -> list[tuple[Drawing, bytes]]:
    """Renders drawings in parallel, one process a core; of those that look the same in a style, the first."""
    processes = max(1, min(os.cpu_count() or 1, len(drawings) // _CHUNK))
    seen: set[tuple[str, bytes]] = set()
    rendered = []
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        images = pool.map(render, drawings, chunksize=_CHUNK) if processes > 1 else map(render, drawings)
        pairs = zip(drawings, images, strict=True)
        for drawing, image in tqdm(pairs, desc=title, total=len(drawings), unit="drawing"):
            if (drawing.style, image) not in seen:
                seen.add((drawing.style, image))
                rendered.append((drawing, image))
    return rendered
