"""Grids of tiles: every tile where it belongs, framed by what is true of it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from histojax.report.drawing import GREEN, RED
from histojax.report.tiles import FRAME, SHARP, SIDE, Tile, tile_grid


def test_tiles_of_any_shape_get_their_frames_and_words():
    blue = np.zeros((20, 40, 3), np.uint8)
    blue[..., 2] = 255
    cells = [
        [Tile(blue, ("a very long name that cannot fit",), True), None],
        [Tile(None), Tile(blue[:1, :1], (), False)],
    ]
    grid = tile_grid(cells, first_apart=True)
    image = np.asarray(Image.open(io.BytesIO(grid.jpeg)).convert("RGB")).astype(int)
    assert image.shape[1] == grid.width * SHARP
    middle = (FRAME + SIDE // 2) * SHARP
    assert abs(image[3, middle] - GREEN).max() < 25 and abs(image[middle, middle] - (0, 0, 255)).max() < 25
    assert abs(image[FRAME * SHARP + 8, middle] - 255).max() < 25  # above a flat tile it is white
    assert (abs(image[-200:, -240:] - RED).max(-1) < 25).sum() > 1000
