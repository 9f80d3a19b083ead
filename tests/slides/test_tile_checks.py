from pathlib import Path

import cv2
import numpy as np
import pytest
from painted_slides import glass, stained

from histojax.slides.checks import (
    check_tile,
    edge_percentage,
    histobistro_keeps,
    histobistro_shares,
    pen_share,
    sharpness,
)
from histojax.slides.settings import TileSettings

FILTER = np.load(Path(__file__).parents[1] / "golden" / "tiling" / "tile_filter.npz")
TILES = list(zip(FILTER["kinds"].tolist(), FILTER["tiles"]))
SETTINGS = TileSettings()


def tissue_tile(seed=0):
    """A tile in focus: as the painted tissue, its nuclei with sharp edges."""
    picture = stained(256, 256, seed)
    generator = np.random.default_rng(seed)
    for x, y in generator.integers(0, 256, (150, 2)).tolist():
        cv2.circle(picture, (x, y), 4, (95, 60, 140), -1, cv2.LINE_AA)
    return picture


def test_the_filter_of_histobistro_to_the_digit():
    shares = np.array([histobistro_shares(tile) for _, tile in TILES])
    for column, key in enumerate(("white_fraction", "black_fraction", "dark_fraction")):
        np.testing.assert_array_equal(shares[:, column], FILTER[key])
    edges = [edge_percentage(tile) for _, tile in TILES]
    np.testing.assert_allclose(edges, FILTER["edge_percent"], atol=1e-12, rtol=0)


@pytest.mark.parametrize("key, invalid, edges", [("keep_default", 0.3, 1.0), ("keep_readme", 0.5, 4.0)])
def test_the_decisions_of_histobistro(key, invalid, edges):
    kept = [histobistro_keeps(tile, invalid, edges) for _, tile in TILES]
    np.testing.assert_array_equal(kept, FILTER[key])
    settings = TileSettings(tissue="histobistro", checks=(), histobistro_invalid=invalid, histobistro_edges=edges)
    assert [check_tile(tile, settings) == "" for _, tile in TILES] == kept


def test_tissue_in_focus_passes():
    assert [check_tile(tissue_tile(seed), SETTINGS) for seed in range(4)] == [""] * 4


def test_glass_and_black_are_blank():
    assert check_tile(glass(256, 256), SETTINGS) == "blank"
    assert check_tile(np.zeros((256, 256, 3), np.uint8), SETTINGS) == "blank"


@pytest.mark.parametrize("sigma", [2.5, 4, 8])
def test_out_of_focus(sigma):
    blurred = cv2.GaussianBlur(tissue_tile(), (0, 0), sigma)
    assert check_tile(blurred, SETTINGS) == "blur"
    assert check_tile(blurred, TileSettings(checks=("blank", "pen"))) == ""


def test_sharpness_does_not_depend_on_the_strength_of_the_stain():
    tile = tissue_tile()
    pale = (255 - (255 - tile.astype(float)) * 0.4).round().astype(np.uint8)
    assert sharpness(pale) == pytest.approx(sharpness(tile), rel=0.1)


@pytest.mark.parametrize(
    "colour", [(30, 120, 60), (30, 60, 170), (15, 30, 120), (20, 22, 25), (205, 30, 50), (20, 150, 140)]
)
def test_ink(colour):
    tile = tissue_tile()
    cv2.line(tile, (0, 60), (255, 90), colour, 40)
    assert check_tile(tile, SETTINGS) == "pen"
    assert pen_share(tissue_tile()) == 0


def test_a_tile_of_any_shape_is_checked():
    for shape in ((1, 1, 3), (3, 50, 3), (17, 16, 3)):
        assert isinstance(check_tile(np.full(shape, 128, np.uint8), TileSettings(min_contrast=0)), str)
