import numpy as np
import pytest
from painted_slides import Painted, disc, glass, stained

from histojax.slides import picture as drawing
from histojax.slides.choose import choose_tiles
from histojax.slides.picture import COLOURS, KEPT, OTHER, background_of, qc_picture
from histojax.slides.settings import CHECKS, TileSettings

SLIDE = Painted(np.where(disc(400, 500, (200, 180), 120)[..., None], stained(), glass()))
CHOICE = choose_tiles(SLIDE, TileSettings(tile_px=512, mpp=1.0))


def has(picture, colour):
    return bool((np.abs(picture.astype(int) - colour).max(-1) < 3).any())


def test_every_tile_is_outlined_in_the_colour_of_what_became_of_it():
    reasons = ["", "pen", "", "blur", "surprise", *[""] * (len(CHOICE.coords) - 5)]
    picture = qc_picture(CHOICE, reasons, "painted", SLIDE.mpp)
    assert picture.dtype == np.uint8 and 1400 <= max(picture.shape) <= 1650
    assert all(has(picture, colour) for colour in (KEPT, COLOURS["pen"], COLOURS["blur"], OTHER))
    assert not has(picture, COLOURS["unreadable"])
    kept = qc_picture(CHOICE, [""] * len(CHOICE.coords), "painted", SLIDE.mpp)
    assert has(kept, KEPT) and not has(kept, COLOURS["pen"])


def test_outlines_lie_where_the_tiles_are(monkeypatch):
    monkeypatch.setattr(drawing, "_framed", lambda picture, titles, entries: picture)
    bare = qc_picture(CHOICE, [], "painted", SLIDE.mpp)
    one = qc_picture(CHOICE, ["blur"], "painted", SLIDE.mpp)
    rows, columns = np.nonzero((bare != one).any(-1))
    scale = SLIDE.size[0] / bare.shape[1]
    x, y = CHOICE.coords[0]
    ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(np.multiply(ends, scale), [x, y, x + 1024, y + 1024], atol=1.5 * scale)


def test_the_legend_counts(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        drawing, "_framed", lambda picture, titles, entries: seen.update(titles=titles, entries=entries)
    )
    qc_picture(CHOICE, ["", "blur", "blur", ""], "painted", SLIDE.mpp)
    assert [text for text, _ in seen["entries"]] == ["kept 2", "blur 2", f"no tissue {CHOICE.rejected['no tissue']}"]
    assert seen["titles"][0] == "painted" and "0.5 um/px  |  tiles of 512 um  |  tissue 2.9" in seen["titles"][1]


def test_every_reason_has_a_colour():
    assert {*CHECKS, "histobistro", "unreadable"} == set(COLOURS)


@pytest.mark.parametrize("height, width", [(20, 500), (500, 20), (3, 3)])
def test_slides_of_any_shape_and_names_of_any_length(height, width):
    slide = Painted(stained(height, width))
    choice = choose_tiles(slide, TileSettings(tile_px=16, mpp=4.0))
    picture = qc_picture(choice, [""] * len(choice.coords), "a name " + "x" * 200, slide.mpp)
    assert picture.shape[1] >= 700


def test_many_small_tiles_are_tinted():
    choice = choose_tiles(SLIDE, TileSettings(tile_px=16, mpp=2.0))
    assert has(qc_picture(choice, ["blur"] * len(choice.coords), "painted", SLIDE.mpp), COLOURS["blur"])  # the legend
    assert len(choice.coords) > 2000


def test_small_slides_are_read_again_for_a_finer_picture():
    asked = []

    class Small:
        size, mpp = (2000, 1000), 0.5

        def thumbnail(self, mpp):
            asked.append(mpp)
            return glass(10, 10), 1.0

    background_of(Small(), choose_tiles(Painted(glass(60, 120)), TileSettings()))
    assert asked == [pytest.approx(0.5 * 2000 / 1400)]
    large = choose_tiles(Painted(glass(60, 900)), TileSettings())
    image, scale = background_of(Small(), large)  # the thumbnail of the mask, enlarged
    assert image.shape == (93, 1400, 3) and scale == pytest.approx(large.scale * 900 / 1400) and len(asked) == 1
