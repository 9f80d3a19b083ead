import cv2
import numpy as np
import pytest
from painted_slides import EOSIN, GLASS, disc, glass, stained

from histojax.slides.settings import TileSettings
from histojax.slides.tissue import shares, tissue_mask

SETTINGS = TileSettings()


def found(picture, settings=SETTINGS, mpp=8.0):
    return tissue_mask(picture, mpp, settings)[0]


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def test_a_piece_of_tissue_on_glass():
    tissue = disc(400, 500, (200, 180), 120)
    picture = np.where(tissue[..., None], stained(), glass())
    mask, words = tissue_mask(picture, 8.0, SETTINGS)
    assert overlap(mask, tissue) > 0.95 and "Otsu" in words and "8 um/px" in words


@pytest.mark.parametrize("colour", [GLASS, (255, 255, 255), (220, 226, 228), (245, 240, 222), (232, 225, 236)])
@pytest.mark.parametrize("noise", [0, 1.5, 4])
def test_a_slide_without_tissue_has_an_empty_mask(colour, noise):
    assert not found(glass(colour=colour, noise=noise)).any()


def test_uneven_light_on_glass_is_no_tissue():
    fall = np.linspace(1, 0.85, 500)[None, :, None]
    assert not found((glass() * fall).astype(np.uint8)).any()


def test_a_slide_full_of_tissue_stays_whole():
    assert found(stained()).mean() > 0.999
    half = stained()
    half[:, 250:] = stained(seed=1)[:, 250:] * np.array([0.6, 0.5, 0.75])  # eosin beside haematoxylin
    assert found(half).mean() > 0.999


@pytest.mark.parametrize("ink", [(30, 120, 60), (30, 60, 170), (20, 22, 25), (205, 30, 50), (20, 150, 140)])
def test_pen_marks_are_no_tissue(ink):
    tissue = disc(400, 500, (150, 200), 100)
    picture = np.where(tissue[..., None], stained(), glass())
    cv2.circle(picture, (150, 200), 130, ink, 8)
    cv2.line(picture, (350, 50), (450, 350), ink, 12)
    mask = found(picture)
    assert overlap(mask, tissue) > 0.9
    assert mask[:, 330:].mean() < 0.005


def test_ink_is_looked_for_only_where_the_checks_ask_for_pen():
    picture = glass()
    picture[100:300, 100:300] = (90, 110, 170)  # as dense nuclei of immunohistochemistry
    assert not found(picture).any()
    assert found(picture, TileSettings(checks=("blank", "blur")))[200, 200]


def test_black_borders_are_no_tissue():
    tissue = disc(400, 500, (250, 200), 100)
    picture = np.where(tissue[..., None], stained(), glass())
    picture[:60], picture[:, 430:] = (2, 0, 5), (0, 0, 0)
    mask = found(picture)
    assert overlap(mask, tissue) > 0.95 and not mask[:55].any() and not mask[:, 435:].any()


def test_fat_is_tissue_though_most_of_it_is_as_white_as_glass():
    picture = glass()
    fat = disc(400, 500, (250, 200), 130)
    for y in range(0, 400, 12):  # cells of 100 um with thin walls
        for x in range(0, 500, 12):
            cv2.circle(picture, (x + (y // 12 % 2) * 6, y), 6, (236, 206, 224), 1)
    picture[~fat] = glass()[~fat]
    assert overlap(found(picture), fat) > 0.9


def test_specks_go_and_holes_fill_by_area_not_by_pixels():
    tissue = disc(400, 500, (250, 200), 150)
    picture = np.where(tissue[..., None], stained(), glass())
    cv2.circle(picture, (250, 200), 8, GLASS, -1)  # 0.013 mm2
    cv2.circle(picture, (180, 200), 30, GLASS, -1)  # 0.18 mm2
    cv2.circle(picture, (40, 40), 5, EOSIN, -1)  # 0.005 mm2
    mask = found(picture)
    assert mask[200, 250] and not mask[200, 180] and not mask[40, 40]
    lenient = TileSettings(min_piece_um2=2000, max_hole_um2=1e6)
    assert found(picture, lenient)[200, 180] and found(picture, lenient)[40, 40]
    half = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert overlap(found(half, mpp=16.0), mask[::2, ::2]) > 0.95


def test_glass_in_a_corner_of_the_picture_is_no_hole():
    picture = stained()
    picture[:20, :20] = glass(20, 20)  # 0.026 mm2
    picture[100:120, 100:120] = glass(20, 20)
    mask = found(picture)
    assert not mask[5, 5] and mask[110, 110]


def test_a_mask_without_thresholds():
    picture = np.where(disc(400, 500, (250, 200), 100)[..., None], stained(), glass())
    picture[:50] = 0
    white = found(picture, TileSettings(tissue="white"))
    assert not white[:50].any() and white[200, 250] and not white[380, 20]
    for name in ("none", "histobistro"):
        assert found(picture, TileSettings(tissue=name)).all()


def test_shares_are_areas_of_fractions_of_pixels():
    generator = np.random.default_rng(0)
    mask = generator.random((31, 47)) > 0.4
    scale, footprint = 7.3, 33.1
    coords = generator.integers(0, 180, (50, 2))
    fine = np.kron(mask, np.ones((73, 73)))  # a tenth of a level-0 pixel each
    expected = [
        fine[round(y * 10) : round((y + footprint) * 10), round(x * 10) : round((x + footprint) * 10)].mean()
        for x, y in coords
    ]
    np.testing.assert_allclose(shares(mask, scale, coords, footprint), expected, atol=1e-6)


def test_shares_beyond_the_mask_are_no_tissue():
    np.testing.assert_allclose(shares(np.ones((4, 4), bool), 10.0, np.array([[30, 0], [20, 30]]), 20.0), [0.5, 0.5])


def test_a_picture_smaller_than_a_speck_may_be_all_tissue():
    assert found(stained(9, 9)).all()  # 72 um a side
    assert not found(glass(9, 9)).any()
