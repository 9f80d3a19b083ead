"""Tokens of an image in overlapping tiles, of a file where its tiles lie."""

from __future__ import annotations

import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.evaluation import token_map
from histojax.evaluation.token_map import map_image, map_stored


def mean_colour(tiles: np.ndarray) -> np.ndarray:
    """(n, 16, 5) tokens of tiles (n, 8, 8, 3): the mean colour of each 2 x 2 px and where in its tile it lies."""
    n = len(tiles)
    means = tiles.reshape(n, 4, 2, 4, 2, 3).mean((2, 4)).reshape(n, 16, 3)
    where = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(1, 16, 2) * 1e-3
    return np.concatenate([means, np.repeat(where, n, 0)], -1)


def test_each_place_of_an_image_has_the_colour_of_what_is_there():
    image = np.zeros((21, 31, 3), np.uint8)
    image[:, 10:20] = (255, 0, 0)
    image[:, 20:] = (0, 0, 255)
    found = map_image(image, 8, mean_colour)
    assert found.colours.shape == (10, 14, 3) and found.image.shape == (20, 28, 3) and found.tiles == 4 * 6
    for part in (slice(0, 5), slice(5, 10), slice(10, 14)):
        assert np.ptp(found.colours[:, part].astype(int), axis=(0, 1))[:2].max() <= 2
    assert abs(found.colours[0, 0].astype(int) - found.colours[0, 6]).max() > 60
    assert "components 1 to 3" in found.words()


def test_glass_is_left_white():
    image = np.full((8, 16, 3), 250, np.uint8)
    image[:, 8:] = np.random.default_rng(0).integers(0, 200, (8, 8, 3))
    found = map_image(image, 8, mean_colour)
    assert (found.colours[:, :4] == 255).all() and (found.colours[:, 4:] != 255).any()
    assert "white: background" in found.words()


def test_small_images_are_enlarged_and_large_ones_refused(monkeypatch):
    assert map_image(np.zeros((3, 5, 3), np.uint8), 8, mean_colour).colours.shape == (4, 6, 3)
    monkeypatch.setattr(token_map, "MOST_TILES", 3)
    with pytest.raises(UserError, match="smaller --region"):
        map_image(np.zeros((16, 16, 3), np.uint8), 8, mean_colour)
    with pytest.raises(UserError, match="no square"):
        map_image(np.zeros((8, 8, 3), np.uint8), 8, lambda tiles: np.zeros((len(tiles), 7, 2)))


def test_stored_tokens_lie_where_their_tiles_do():
    tokens = np.repeat(np.eye(3, 4)[:, None], 4, 1)
    placed = map_stored(tokens, (2, 2), np.array([[100, 50], [300, 50], [200, 150]]), 100.0).colours
    assert placed.shape == (4, 6, 3) and (placed[2:, :2] == 255).all()
    assert map_stored(tokens, (2, 2), None, 1.0).colours.shape == (4, 4, 3)
