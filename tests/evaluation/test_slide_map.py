"""What heads say of the tiles of a slide, and what must not be drawn."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.evaluation.mil.head import Head
from histojax.evaluation.mil.models import draw_params
from histojax.evaluation.mil.settings import HeadSettings
from histojax.evaluation.slide_map import footprint_of, map_slide
from histojax.features.stored import Geometry, Header, Origin, StoredFeatures

ORIGIN = Origin("histojax 1", "vits", "w.safetensors", "ab" * 32)


def head(outputs: int = 1, classes=("MSS", "MSI"), task="classification", seed: int = 0, **facts) -> Head:
    settings = HeadSettings("attention", inputs=6, outputs=outputs, width=4, hidden=4, dropout=0.0)
    return Head(settings, task, classes, draw_params(settings, seed), facts)


def stored(tiles: int = 5, **geometry) -> StoredFeatures:
    header = Header(Path("a.h5"), "histojax", "a", tiles, 6, np.dtype("f4"), Geometry(**geometry), ORIGIN)
    coords = np.stack([np.arange(tiles) * 64, np.zeros(tiles, int)], 1)
    return StoredFeatures(header, np.random.default_rng(0).normal(size=(tiles, 6)).astype(np.float32), coords)


def test_several_heads_are_averaged():
    one, two = head(seed=0), head(seed=1)
    both = map_slide(stored(footprint_px=64), [one, two])
    each = [map_slide(stored(footprint_px=64), [h]) for h in (one, two)]
    for i, name in enumerate(("attention", "MSI")):
        assert both.layers[i].name == name
        np.testing.assert_allclose(both.layers[i].values, (each[0].layers[i].values + each[1].layers[i].values) / 2)
    np.testing.assert_allclose(both.layers[0].values.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(both.said["MSI"], (each[0].said["MSI"] + each[1].said["MSI"]) / 2)
    assert "mean of 2 heads" in both.words() and both.notes


@pytest.mark.parametrize(
    ("made", "layers"),
    [
        (head(3, ("a", "b", "c")), ["attention", "a", "b", "c"]),
        (head(classes=()), ["attention", "class 1"]),
        (head(1, (), "survival"), ["attention", "risk"]),
        (head(1, (), "regression"), ["attention", "value"]),
    ],
)
def test_every_task_has_its_layers(made, layers):
    found = map_slide(stored(footprint_px=64), [made])
    assert [layer.name for layer in found.layers] == layers
    assert json.loads(json.dumps(found.said)) == found.said


def test_a_tile_without_a_size_is_as_large_as_the_step_to_its_neighbour():
    side, notes = footprint_of(stored())
    assert side == 64 and "64 px" in notes[0]
    with pytest.raises(UserError, match="how large a tile is"):
        footprint_of(stored(1))


def test_features_that_a_head_was_not_made_for_are_refused():
    bag = stored(footprint_px=64)
    wide = dataclasses.replace(bag, header=dataclasses.replace(bag.header, width=7))
    other, plain = head(features={"encoder": "uni_v1"}), HeadSettings("mean", inputs=6, outputs=1)
    mean = dataclasses.replace(head(), settings=plain, params=draw_params(plain, 0))
    bare = dataclasses.replace(bag, coords=None)
    for given, heads, words in (
        (wide, [head()], "7 numbers a tile"),
        (bag, [other], "trained on features of uni_v1"),
        (bare, [head()], "no coordinates"),
        (bag, [head(), head(classes=("x", "y"))], "different questions"),
        (bag, [head(), mean], "different models"),
    ):
        with pytest.raises(UserError, match=words):
            map_slide(given, heads)
    assert map_slide(bag, [head(features={"encoder": "vits"})]).heads == 1
    np.testing.assert_allclose(map_slide(bag, [mean]).layers[0].values, 1 / 5, rtol=1e-6)
