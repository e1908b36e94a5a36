"""Sheets of images with captions, and atomic writing of image files."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from muse_jax.media.video import ENCODERS, Video, check_encoder

GAP, MARGIN, FONT_SIZE = 12, 16, 15
CELL = 192  # images are enlarged by a whole number to at least this many pixels
INK, FAINT = (30, 30, 30), (110, 110, 110)


def check_output(path: str | Path, video: bool = False) -> Path:
    """Creates the folder of `path` and checks that an image, or a video, can be written there.

    Raises:
      ValueError: the suffix is not that of a format, its extra is missing, or the path is not writable.
    """
    path = Path(path)
    endings = Image.registered_extensions()
    if video and path.suffix.lower() in ENCODERS:
        check_encoder(path.suffix.lower())
    elif endings.get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"--out={path} is not the name of an image: use the suffix .png, .jpg or .webp.")
    if path.is_dir():
        raise ValueError(f"--out={path} is a directory: give the name of a file, such as {path}/out.png.")
    probe = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise ValueError(
            f"--out={path} cannot be written ({error.strerror or error}): give a path that you may write to."
        ) from error
    return path


def save_image(image: Image.Image | Video, path: Path) -> None:
    """Writes an image or a video atomically.

    Raises:
      ValueError: it cannot be written.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        if isinstance(image, Video):
            temporary.write_bytes(image.encode(path.suffix.lower()))
        else:
            image.save(temporary)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"The image cannot be written to {path} ({error.strerror or error}).") from error


def captioned_grid(
    images: np.ndarray, captions: Sequence[str], columns: int = 0, legend: str = ""
) -> Image.Image:
    """Sheet of images with their captions below them, and a legend at the bottom.

    Args:
      images: uint8 (n, height, width, 3).
      captions: n texts; long ones are broken into lines.
      columns: number of columns, at most n; 0: four.
      legend: a line at the bottom; "" for none.
    """
    columns = min(columns or 4, len(images))
    rows = -(-len(images) // columns)
    font = ImageFont.load_default(FONT_SIZE)
    scale = max(1, -(-CELL // images.shape[2]))
    width, height = images.shape[2] * scale, images.shape[1] * scale
    texts = [_wrap(caption, font, width) for caption in captions]
    line = FONT_SIZE + 4
    text_height = line * max(text.count("\n") + 1 for text in texts)
    cell_width, cell_height = width + GAP, height + text_height + GAP
    legend_text = _wrap(legend, font, columns * cell_width - GAP) if legend else ""
    legend_height = line * (legend_text.count("\n") + 1) if legend else 0
    size = (2 * MARGIN + columns * cell_width - GAP, 2 * MARGIN + rows * cell_height - GAP + legend_height)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        row, column = divmod(index, columns)
        x, y = MARGIN + column * cell_width, MARGIN + row * cell_height
        sheet.paste(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS), (x, y))
        draw.multiline_text((x + width / 2, y + height + 2), text, INK, font, anchor="ma", align="center")
    if legend:
        draw.multiline_text((MARGIN, MARGIN + rows * cell_height - 4), legend_text, FAINT, font)
    return sheet


def _wrap(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """Breaks a text into lines of at most `width` pixels, or of a single word."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)
