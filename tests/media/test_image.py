"""Images: decoding, resizing, augmentation and grids."""

import numpy as np
import pytest
from PIL import Image

from muse_jax.media.image import (
    ImageModality,
    View,
    decode_image,
    encode_png,
    parse_augment,
    resize,
    tile_images,
)


def coordinates(height, width):
    """An image whose red channel is the row and green channel the column of each pixel."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([rows, columns, rows * 0], -1).astype(np.uint8)


def test_png_round_trip():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(encode_png(image)), image)


def test_transparency_of_a_palette_is_composited_on_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([9, 9, 9] * 256)
    image.save(tmp_path / "p.png", transparency=0)
    assert (decode_image((tmp_path / "p.png").read_bytes()) == 255).all()


def test_resize_averages_blocks():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mean = image.reshape(8, 4, 8, 4, 3).mean((1, 3))
    assert np.abs(resize(image, 8) - mean).max() <= 1, "rounded once per axis"
    assert resize(image, 12).shape == (12, 12, 3)


def test_resize_takes_the_middle_square():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    wide = np.concatenate([np.zeros_like(image), image, np.zeros_like(image)], 1)
    np.testing.assert_array_equal(resize(wide, 32), image)


def test_crop_is_a_random_window():
    image, modality = coordinates(16, 20), ImageModality(8, "crop")
    corners = set()
    for seed in range(60):
        crop = modality.draw(modality.fit({"image": image}), np.random.default_rng(seed))
        top, left = crop[0, 0, :2]
        corners.add((top, left))
        np.testing.assert_array_equal(crop, image[top : top + 8, left : left + 8])
    assert len(corners) > 30
    assert max(top for top, _ in corners) == 8 and max(left for _, left in corners) > 8


def test_a_crop_larger_than_the_image_enlarges_its_middle():
    image = coordinates(16, 20)
    crop = ImageModality(32, "crop").draw(image, np.random.default_rng(0))
    np.testing.assert_array_equal(crop, resize(image, 32))


def test_zoom_cuts_80_to_100_percent_of_the_shorter_side():
    sides = {View.draw((100, 200), 8, ("zoom",), np.random.default_rng(seed)).side for seed in range(200)}
    assert min(sides) in (80, 81) and max(sides) in (99, 100)


def test_flip_mirrors_half_of_the_images():
    image, modality = coordinates(16, 16), ImageModality(16, "flip")
    drawn = [modality.draw(image, np.random.default_rng(seed)) for seed in range(200)]
    mirrored = [np.array_equal(each, image[:, ::-1]) for each in drawn]
    assert 70 < sum(mirrored) < 130
    assert all(np.array_equal(each, image) for each, flip in zip(drawn, mirrored, strict=True) if not flip)


def test_unknown_augmentations_are_refused():
    assert parse_augment("crop+flip") == ("crop", "flip")
    with pytest.raises(ValueError, match="unknown step 'cutout'"):
        ImageModality(8, "flip+cutout")
    with pytest.raises(ValueError, match="either crop or zoom"):
        ImageModality(8, "crop+zoom")
    with pytest.raises(ValueError, match="image_size is 0"):
        ImageModality(0)


def test_images_are_tiled_row_by_row():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)
    grid = tile_images(images)
    assert grid.shape == (2 * 6 + 2, 3 * 8 + 2, 3)
    assert grid[2, 2, 0] == 0 and grid[2, 10, 0] == 1 and grid[8, 10, 0] == 4
    assert grid[8, 18, 0] == 255 and grid[0, 0, 0] == 255
