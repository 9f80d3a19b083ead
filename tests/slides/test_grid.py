import numpy as np
import pytest

from histojax.slides.grid import TooManyPlaces, grid, subsample
from histojax.slides.settings import TileSettings


def test_tiles_row_by_row_and_those_that_do_not_fit_are_dropped():
    coords, footprint = grid((1100, 700), 0.5, TileSettings(tile_px=256, mpp=0.5))
    assert footprint == 256
    assert coords.tolist() == [[x, y] for y in (0, 256) for x in (0, 256, 512, 768)]
    assert coords.dtype == np.int64


@pytest.mark.parametrize("slide_mpp, mpp", [(0.499, 1.0), (0.2527, 0.5), (0.2325, 1.14), (0.25, 2.0)])
def test_corners_never_drift(slide_mpp, mpp):
    settings = TileSettings(tile_px=224, mpp=mpp)
    coords, footprint = grid((100_000, 80_000), slide_mpp, settings)
    exact = 224 * mpp / slide_mpp
    assert footprint == pytest.approx(exact)
    for axis, extent in ((0, 100_000), (1, 80_000)):
        corners = np.unique(coords[:, axis])
        assert np.abs(corners - np.arange(len(corners)) * exact).max() <= 0.5
        assert corners[-1] + footprint <= extent + 0.01 < corners[-1] + footprint + exact + 0.5


def test_overlap_is_in_pixels_of_the_tile():
    coords, _ = grid((2048, 512), 0.25, TileSettings(tile_px=256, mpp=0.5, overlap_px=64))
    assert coords[:, 0].tolist() == [0, 384, 768, 1152, 1536]


def test_a_row_that_fits_exactly_is_kept_whatever_mpp_rounds_to():
    settings = TileSettings(tile_px=256, mpp=0.5054)
    assert len(grid((5120, 5120), 0.2527, settings)[0]) == 100


def test_a_slide_smaller_than_a_tile_has_none():
    coords, _ = grid((200, 5000), 0.5, TileSettings(tile_px=256, mpp=0.5))
    assert coords.shape == (0, 2)


def test_subsample_depends_on_seed_and_slide_alone():
    chosen = subsample(1000, 50, 3, "a")
    assert len(np.unique(chosen)) == 50 and (np.diff(chosen) > 0).all() and chosen.max() < 1000
    np.testing.assert_array_equal(chosen, subsample(1000, 50, 3, "a"))
    others = [subsample(1000, 50, 3, "b"), subsample(1000, 50, 4, "a")]
    assert not any(np.array_equal(chosen, other) for other in others)
    assert subsample(40, 50, 3, "a").tolist() == subsample(40, None, 3, "a").tolist() == list(range(40))


def test_more_places_than_memory_are_refused_before_they_are_made():
    with pytest.raises(TooManyPlaces, match=r"612,315,025 places for tiles of 256 px that overlap by 255, at most"):
        grid((100_000, 100_000), 0.25, TileSettings(overlap_px=255))
