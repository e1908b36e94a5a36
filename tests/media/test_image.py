"""Images: grids."""

import numpy as np

from muse_jax.media.image import tile_images


def test_images_are_tiled_row_by_row():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)
    grid = tile_images(images)
    assert grid.shape == (2 * 6 + 2, 3 * 8 + 2, 3)
    assert grid[2, 2, 0] == 0 and grid[2, 10, 0] == 1 and grid[8, 10, 0] == 4
    assert grid[8, 18, 0] == 255 and grid[0, 0, 0] == 255
