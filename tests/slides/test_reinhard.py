import numpy as np
import pytest
from painted_slides import glass, stained

from histojax.slides import reinhard


def lab(image):
    """CIE Lab of sRGB pixels (n, 3), by the book."""
    linear = image / 255.0
    linear = np.where(linear > 0.04045, ((linear + 0.055) / 1.055) ** 2.4, linear / 12.92)
    to_xyz = np.array([[0.412453, 0.35758, 0.180423], [0.212671, 0.71516, 0.072169], [0.019334, 0.119193, 0.950227]])
    xyz = linear @ to_xyz.T / np.array([0.950456, 1.0, 1.088754])
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], axis=1)


def test_statistics_are_those_of_lab_over_stained_pixels():
    image = stained(60, 80)
    image[:20] = glass(20, 80)
    values = lab(image[image[..., 1] <= 205].astype(float))
    found = reinhard.fit(image)
    np.testing.assert_allclose(found.mean, values.mean(0), atol=0.15)  # OpenCV interpolates in a table
    np.testing.assert_allclose(found.deviation, values.std(0), atol=0.15)


def test_a_tile_gets_the_colours_of_the_target():
    tile = stained(80, 80)
    found = reinhard.fit(reinhard.apply(tile))
    np.testing.assert_allclose(found.mean, reinhard.REFERENCE.mean, atol=0.7)
    np.testing.assert_allclose(found.deviation, reinhard.REFERENCE.deviation, rtol=0.1, atol=0.3)


def test_a_tile_in_the_colours_of_the_target_stays():
    tile = stained(40, 40)
    again = reinhard.apply(tile, reinhard.fit(tile))
    assert np.abs(again.astype(int) - tile).max() <= 1


def test_tissue_does_not_depend_on_how_much_glass_is_around_it():
    alone = stained(60, 60)
    with_glass = np.concatenate([alone, glass(60, 60)], axis=1)
    out = reinhard.apply(with_glass)
    assert np.abs(out[:, :60].astype(int) - reinhard.apply(alone)).max() <= 1
    np.testing.assert_array_equal(out[:, 60:], with_glass[:, 60:])


@pytest.mark.parametrize("tile", [glass(40, 40), glass(1, 1)])
def test_a_tile_without_stain_is_returned_as_it_is(tile):
    assert reinhard.fit(tile) is None
    np.testing.assert_array_equal(reinhard.apply(tile), tile)


def test_a_flat_tile_is_moved_not_stretched():
    tile = np.full((20, 20, 3), (180, 100, 150), np.uint8)
    tile[0, 0] += 1
    out = reinhard.apply(tile)
    assert np.ptp(out.reshape(-1, 3).astype(int), axis=0).max() <= 3
