import gzip
import json

import cv2
import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.slides.geojson import rasterise, read_geojson, trace, write_geojson

SQUARE = [[10, 10], [50, 10], [50, 40], [10, 40], [10, 10]]
HOLE = [[20, 20], [20, 30], [30, 30], [30, 20], [20, 20]]


def blobs(seed=0, height=120, width=170):
    generator = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(generator.random((height, width)).astype(np.float32), (0, 0), 3)
    return noise > np.median(noise)


def feature(coordinates, kind="Polygon", name="Tumor", **properties):
    found = {"objectType": "annotation", **properties}
    if name:
        found["classification"] = {"name": name, "color": [200, 0, 0]}
    return {
        "type": "Feature",
        "id": "f0e9",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": found,
    }


def written(tmp_path, content):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("seed", range(3))
def test_a_mask_comes_back_exactly(tmp_path, seed):
    mask, scale = blobs(seed), 16.032
    pieces = write_geojson(tmp_path / "m.geojson", mask, scale)
    back = read_geojson(tmp_path / "m.geojson")
    assert pieces == len(back) > 1 and back.names == {"Tissue": pieces}
    np.testing.assert_array_equal(rasterise(back, mask.shape, scale), mask)
    finer = rasterise(back, (mask.shape[0] * 4, mask.shape[1] * 4), scale / 4)
    assert (finer != np.kron(mask, np.ones((4, 4), bool))).mean() < 0.001


def test_pieces_are_traced_along_the_edges_of_pixels():
    mask = np.zeros((6, 7), bool)
    mask[1:4, 1:4] = True
    mask[2, 2] = False
    mask[4, 4] = True  # touches by a corner: a piece of its own
    large, small = trace(mask)
    assert sorted(map(tuple, large.rings[0].tolist())) == [(1, 1), (1, 4), (4, 1), (4, 4)]
    assert len(large.rings) == 2 and sorted(map(tuple, large.rings[1].tolist())) == [(2, 2), (2, 3), (3, 2), (3, 3)]
    assert sorted(map(tuple, small.rings[0].tolist())) == [(4, 4), (4, 5), (5, 4), (5, 5)]


def test_the_file_is_what_qupath_reads(tmp_path):
    mask = np.zeros((20, 20), bool)
    mask[2:18, 3:17] = True
    mask[8:10, 8:10] = False
    write_geojson(tmp_path / "m.geojson", mask, 10.0, "Tissue")
    content = json.loads((tmp_path / "m.geojson").read_text())
    (only,) = content["features"]
    assert content["type"] == "FeatureCollection" and only["type"] == "Feature"
    assert only["properties"] == {"objectType": "annotation", "classification": {"name": "Tissue"}}
    outer, hole = only["geometry"]["coordinates"]
    assert outer[0] == outer[-1] and hole[0] == hole[-1]
    assert [min(p[0] for p in outer), max(p[1] for p in outer)] == [30, 180]


def test_an_empty_mask_is_a_file_without_features(tmp_path):
    assert write_geojson(tmp_path / "m.geojson", np.zeros((5, 5), bool), 10.0) == 0
    assert len(read_geojson(tmp_path / "m.geojson")) == 0


@pytest.mark.parametrize(
    "form",
    [
        lambda f: {"type": "FeatureCollection", "features": [f]},
        lambda f: [f],
        lambda f: f,
        lambda f: f["geometry"],
        lambda f: {"type": "GeometryCollection", "geometries": [f["geometry"]]},
        lambda f: [f["geometry"]],
        lambda f: [{**f, "geometry": {"type": "GeometryCollection", "geometries": [f["geometry"]]}}],
        lambda f: [{**f, "geometry": {**f["geometry"], "plane": {"c": -1, "z": 2, "t": 0}}}],
        lambda f: [feature([[[x, y, 0] for x, y in ring] for ring in (SQUARE, HOLE)])],
        lambda f: [feature([[SQUARE, HOLE]], "MultiPolygon")],
    ],
)
def test_every_form_of_export(tmp_path, form):
    polygons = read_geojson(written(tmp_path, form(feature([SQUARE, HOLE]))))
    mask = rasterise(polygons, (60, 60), 1.0)
    expected = np.zeros((60, 60), bool)
    expected[10:40, 10:50] = True
    expected[20:30, 20:30] = False
    np.testing.assert_array_equal(mask, expected)


def test_gzipped_exports(tmp_path):
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps([feature([SQUARE])]).encode()))
    assert len(read_geojson(path)) == 1


def test_classes(tmp_path):
    features = [
        feature([SQUARE]),
        feature([SQUARE], name="Stroma"),
        feature([SQUARE], name=""),
        {**feature([SQUARE]), "properties": {"classification": "tumor"}},
        {**feature([SQUARE]), "properties": None},
    ]
    path = written(tmp_path, features)
    assert len(read_geojson(path, "TUMOR")) == 2 and len(read_geojson(path)) == 5
    assert read_geojson(path, "Necrosis").names == {"Tumor": 1, "Stroma": 1, "": 2, "tumor": 1}


def test_what_is_no_annotated_area_is_left_out_and_counted(tmp_path):
    features = [
        feature([SQUARE]),
        feature([5, 5], "Point"),
        feature(SQUARE, "LineString"),
        feature([SQUARE], objectType="cell"),
        {**feature([SQUARE]), "id": "PathDetectionObject"},
        {**feature([SQUARE]), "geometry": None},
    ]
    found = read_geojson(written(tmp_path, features))
    assert (len(found), found.left_out) == (1, 5)


@pytest.mark.parametrize(
    "content, said",
    [
        ("{", "cannot be read as GeoJSON"),
        ("", "an empty file"),
        ("<Annotations/>", r"GeoJSON .XML."),
        ("\udc89PNG", "no text .a mask as a picture"),
        ("[1, 2]", "feature 0 is int, expected a GeoJSON feature"),
        ('{"a": 1}', "expected a FeatureCollection"),
        ('"text"', "expected a FeatureCollection"),
        (json.dumps([feature([SQUARE], "Circle")]), "feature 0: its geometry is of type 'Circle'"),
        (json.dumps([feature([SQUARE]), feature([[[1, 2], [3]]])]), "feature 1: a ring of its polygon is"),
        (json.dumps([feature([[[1, 2], [3, 4]]])]), "expected 3 or more points"),
        (json.dumps([feature([[[1, 2], [3, 4], [5, float("nan")]]])]), "expected 3 or more points"),
        (json.dumps([feature([])]), "its polygon has no ring"),
        (json.dumps([feature(None)]), "expected a list"),
        (json.dumps([feature([SQUARE], classification=3, name="")]), "its classification is 3, expected a name"),
    ],
)
def test_bad_files_are_named(tmp_path, content, said):
    path = tmp_path / "bad.geojson"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=f"bad.geojson.*{said}"):
        read_geojson(path)
    with pytest.raises(UserError, match=r"missing\.geojson: cannot be read"):
        read_geojson(tmp_path / "missing.geojson")


def test_areas_beyond_the_slide_are_cut_at_its_edge(tmp_path):
    far = [[-500, -500], [30, -500], [30, 900], [-500, 900]]
    path = written(tmp_path, [feature([far]), feature([[[x + 5000, y] for x, y in SQUARE]])])
    mask = rasterise(read_geojson(path), (40, 60), 1.0)
    assert mask[:, :30].all() and not mask[:, 30:].any()
