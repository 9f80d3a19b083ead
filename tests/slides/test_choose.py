import numpy as np
import pytest
from painted_slides import Painted, disc, glass, stained

from histojax.slides.choose import choose_tiles
from histojax.slides.geojson import Polygon, Polygons
from histojax.slides.settings import TileSettings

TISSUE = disc(400, 500, (200, 180), 120)
SLIDE = Painted(np.where(TISSUE[..., None], stained(), glass()))  # 4.0 x 3.2 mm at 0.5 um/px
SETTINGS = TileSettings(tile_px=256, mpp=1.0)


def box(left, top, right, bottom):
    return Polygons((Polygon((np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float),)),))


def test_tiles_cover_the_tissue():
    choice = choose_tiles(SLIDE, SETTINGS)
    assert choice.footprint == 512 and choice.coords.shape == (len(choice.shares), 2)
    assert choice.shares.min() >= 0.5 and choice.shares.dtype == np.float32
    assert choice.mask.shape == choice.thumbnail.shape[:2] and choice.scale == 16
    assert len(choice.coords) * 32**2 == pytest.approx(TISSUE.sum(), rel=0.1)
    assert choice.rejected == {"no tissue": 15 * 12 - len(choice.coords)}
    order = choice.coords[:, 1] * 10_000 + choice.coords[:, 0]
    assert (np.diff(order) > 0).all()


def test_what_annotations_leave_out_is_counted_by_reason():
    everything = choose_tiles(SLIDE, SETTINGS)
    left_half = choose_tiles(SLIDE, SETTINGS, include=box(0, 0, 3200, 6400))
    assert 0 < len(left_half.coords) < len(everything.coords)
    assert (left_half.coords[:, 0] + 256 <= 3200).all()
    assert left_half.rejected["outside the annotation"] == len(everything.coords) - len(left_half.coords)
    upper = choose_tiles(SLIDE, SETTINGS, include=box(0, 0, 3200, 6400), exclude=box(0, 3000, 8000, 6400))
    assert (upper.coords[:, 1] + 512 <= 3000 + 52).all()
    assert upper.rejected["excluded by annotation"] + len(upper.coords) == len(left_half.coords)
    assert sum(upper.rejected.values()) + len(upper.coords) == 15 * 12


def test_nothing_annotated_includes_nothing_and_excludes_nothing():
    nothing = Polygons(())
    assert not len(choose_tiles(SLIDE, SETTINGS, include=nothing).coords)
    assert choose_tiles(SLIDE, SETTINGS, exclude=nothing).rejected.keys() == {"no tissue"}


def test_a_limit_of_tiles():
    choice = choose_tiles(SLIDE, TileSettings(tile_px=256, mpp=1.0, max_tiles=10, seed=1))
    everything = choose_tiles(SLIDE, SETTINGS)
    assert len(choice.coords) == len(choice.shares) == 10
    assert choice.rejected["sub-sampled"] == len(everything.coords) - 10
    assert {*map(tuple, choice.coords.tolist())} < {*map(tuple, everything.coords.tolist())}


@pytest.mark.parametrize("tissue", ["none", "histobistro"])
def test_without_a_mask_the_whole_grid_is_chosen(tissue):
    choice = choose_tiles(SLIDE, TileSettings(tile_px=200, mpp=0.77, tissue=tissue, min_tissue=1.0))
    assert not choice.rejected and (choice.shares == 1).all() and choice.mask_from == "the whole slide"


def test_a_slide_without_tissue_has_no_tiles():
    choice = choose_tiles(Painted(glass()), SETTINGS)
    assert choice.coords.shape == (0, 2) and choice.rejected == {"no tissue": 180} and not choice.mask.any()


def test_a_slide_smaller_than_a_tile_is_said():
    choice = choose_tiles(Painted(stained(30, 400)), SETTINGS)
    assert choice.coords.shape == (0, 2) and choice.rejected == {"slide smaller than a tile": 1}
