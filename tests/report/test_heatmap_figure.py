"""Values over a slide: every tile where it lies, in the colour of its value, in pictures and in GeoJSON."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from histojax.report import heatmap
from histojax.report.heatmap import Layer, Place, heatmap_figure, overlay, write_tile_geojson
from histojax.slides.geojson import read_geojson

COORDS = np.array([[0, 0], [200, 0], [0, 100]])


def test_ranks_share_places_between_ties():
    np.testing.assert_allclose(heatmap._ranks(np.array([3.0, 1, 1, 2])), [1, 1 / 6, 1 / 6, 2 / 3])
    np.testing.assert_allclose(heatmap._ranks(np.array([0.25])), [0])


@pytest.mark.parametrize(("kind", "values"), [("probability", [0, 0.5, 1]), ("number", [-4, 0, 4])])
def test_colours_run_from_the_least_to_the_most(kind, values):
    layer = Layer("x", np.array(values, float), kind)
    np.testing.assert_allclose(layer.unit(), [0, 0.5, 1])
    assert len(layer.ticks()[0]) == len(layer.ticks()[1]) and layer.colours().dtype == np.uint8
    np.testing.assert_allclose(Layer("x", np.ones(3)).unit(), 0.5)


def test_an_even_share_is_one_on_the_colour_bar():
    assert Layer("attention", np.full(8, 1 / 8), "share").ticks()[1] == ["1"] * 5


def test_tiles_lie_where_they_are_and_overlaps_are_averaged():
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    blank = np.full((30, 40, 3), 200, np.uint8)
    shown = overlay(blank, Place(COORDS, 100.0), 10.0, colours)
    for (x, y), colour in zip(COORDS // 10, colours):
        assert (shown[y : y + 10, x : x + 10] == colour).all()
    assert (shown[20:] == 200).all() and (shown[:10, 10:20] == 200).all()
    half = overlay(blank, Place(np.array([[0, 0], [0, 0]]), 100.0), 10.0, colours[:2])
    assert half[5, 5].tolist() == [128, 128, 0]
    behind = overlay(blank, Place(COORDS, 100.0, background=blank, scale=10), 10.0, colours)
    assert behind[5, 5].tolist() == [round(255 * heatmap.OPAQUE + 200 * (1 - heatmap.OPAQUE)), 76, 76]


@pytest.mark.parametrize("shape", [(30, 40), (10, 60), None])
def test_pictures_of_wide_high_and_missing_slides(monkeypatch, shape):
    monkeypatch.setattr(heatmap, "LONG_SIDE", 300)
    background = None if shape is None else np.full((*shape, 3), 230, np.uint8)
    place = Place(COORDS, 100.0, background, 10.0, 0.25)
    drawn = heatmap_figure(place, Layer("a $b$", np.array([0.1, 0.7, 0.2]), "share"), "title")
    image = np.asarray(Image.open(io.BytesIO(drawn.png)).convert("RGB")).astype(int)
    top = Layer("a", np.array([0.1, 0.7, 0.2]), "share").colours()[1]
    seen = top if shape is None else heatmap.OPAQUE * top + (1 - heatmap.OPAQUE) * 230
    assert (abs(image - seen).max(-1) < 6).sum() > 800


def test_geojson_is_in_level0_pixels_with_all_values(tmp_path):
    layers = [
        Layer("attention", np.array([0.1, 0.7, 0.2]), "share"),
        Layer("MSI", np.array([0, 0.5, 1]), "probability"),
    ]
    assert write_tile_geojson(tmp_path / "a.geojson", COORDS, 100.0, layers) == 3
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert features[1]["geometry"]["coordinates"] == [[[200, 0], [300, 0], [300, 100], [200, 100], [200, 0]]]
    properties = features[1]["properties"]
    assert properties["measurements"] == {"attention": 0.7, "p MSI": 0.5} and properties["objectType"] == "tile"
    assert properties["color"] == layers[0].colours()[1].tolist()
    assert read_geojson(tmp_path / "a.geojson").left_out == 3  # tiles are no annotations
