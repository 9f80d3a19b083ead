"""The workers' part: tiles of sources and slides prepared as the encoder would, bad ones told apart."""

import numpy as np
from PIL import Image
from tiny_encoders import TILE, encoder, picture

from histojax.data.slide_list import SlideEntry
from histojax.data.sources import open_source
from histojax.features.reading import Chunk, Planner, Reader, Rule, chunks_of, rule_of
from histojax.slides.settings import TileSettings

SETTINGS = TileSettings(tile_px=TILE, mpp=1.0, tissue="none", checks=())


def test_tiles_are_prepared_as_the_encoder_does(tmp_path):
    for number, size in enumerate([(32, 32), (64, 64), (90, 50)]):
        Image.fromarray(picture(*size, number)).save(tmp_path / f"{number}.png")
    tiny, source = encoder(), open_source(tmp_path)
    pixels = Reader((rule_of(tiny.preprocess),), (source,))(Chunk(7, 64, 3, numbers=np.arange(3)))
    np.testing.assert_array_equal(pixels.prepared[0], tiny.prepare([source.read(i) for i in range(3)]))
    assert (pixels.job, pixels.first, pixels.places.tolist(), pixels.bad) == (7, 64, [0, 1, 2], ())


def test_what_is_not_square_or_broken_is_left_out(tmp_path):
    Image.fromarray(picture(48, 32)).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:99])
    Image.fromarray(picture(32, 32)).save(tmp_path / "2.png")
    rules = (Rule(28, None, "bilinear"), Rule(14, 14, "bicubic"))
    pixels = Reader(rules, (open_source(tmp_path),))(Chunk(0, 0, 3, numbers=np.arange(3)))
    assert pixels.bad[0] == (0, "not square: 48x32 px") and pixels.bad[1][1].startswith("damaged image")
    assert [array.shape for array in pixels.prepared] == [(1, 28, 28, 3), (1, 14, 14, 3)]


def test_a_slide_without_tiles_is_heard_of(tmp_path):
    Image.fromarray(picture(20, 20)).save(tmp_path / "a.png")
    entry = SlideEntry(tmp_path / "a.png", "a", mpp=1.0)
    plan = Planner(SETTINGS)(entry)
    assert plan.coords.shape == (0, 2) and plan.size == (20, 20)
    assert [(part.start, part.stop) for part in chunks_of(0)] == [(0, 0)]
    pixels = Reader((Rule(28, 28, "bilinear"),), (), SETTINGS)(Chunk(0, 0, 0, entry, None, plan.coords))
    assert pixels.prepared[0].shape == (0, 28, 28, 3) and not len(pixels.places)


def test_stains_are_normalised_after_the_checks(tmp_path):
    Image.fromarray(picture(64, 32)).save(tmp_path / "a.png")
    entry = SlideEntry(tmp_path / "a.png", "a", mpp=1.0)
    coords = np.array([[0, 0], [32, 0]])
    rules = (Rule(TILE, None, "none"),)
    plain, stained = (
        Reader(rules, (), TileSettings(tile_px=TILE, mpp=1.0, tissue="none", checks=(), stain=stain))(
            Chunk(0, 0, 2, entry, None, coords)
        )
        for stain in ("none", "reinhard")
    )
    assert plain.prepared[0].shape == stained.prepared[0].shape == (2, TILE, TILE, 3)
    assert (plain.prepared[0] != stained.prepared[0]).any()
    np.testing.assert_array_equal(plain.prepared[0][1], picture(64, 32)[:, 32:])
