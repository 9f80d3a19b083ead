from pathlib import Path

import numpy as np
import pytest
from painted_slides import EOSIN, glass, stained
from PIL import Image

from histojax.slides import macenko

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "patch_eval" / "macenko.npz")
REAL = Path(__file__).parents[3] / "shared" / "data" / "stain_reference" / "henorm"


def assert_within_one_level(ours, expected):
    assert ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - expected.astype(int)).max() <= 1


def test_stains_of_the_reference_implementation():
    for name in ("source", "target"):
        found = macenko.fit(GOLDEN[name])
        np.testing.assert_allclose(found.stains, GOLDEN[f"{name}_HE"], atol=1e-6)
        np.testing.assert_allclose(found.strengths, GOLDEN[f"{name}_maxC"], atol=1e-5)


@pytest.mark.parametrize("fitted, ending", [(False, "default"), (True, "to_target")])
def test_pictures_of_the_reference_implementation(fitted, ending):
    target = macenko.fit(GOLDEN["target"]) if fitted else macenko.REFERENCE
    assert_within_one_level(macenko.apply(GOLDEN["source"], target), GOLDEN[f"norm_{ending}"])
    haematoxylin, eosin = macenko.separate(GOLDEN["source"], target)
    assert_within_one_level(haematoxylin, GOLDEN[f"hema_{ending}"])
    assert_within_one_level(eosin, GOLDEN[f"eosin_{ending}"])


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the stain references in shared/data")
def test_real_tissue_as_the_authors_of_henorm_normalised_it():
    example, *expected = (
        np.asarray(Image.open(REAL / name).convert("RGB"))
        for name in ("example1.png", "norm1.png", "norm1_H.png", "norm1_E.png")
    )
    for ours, picture in zip((macenko.apply(example), *macenko.separate(example)), expected):
        assert_within_one_level(ours, picture)


@pytest.mark.parametrize(
    "tile", [glass(64, 64), np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), EOSIN, np.uint8), glass(1, 1)]
)
def test_a_tile_without_two_stains_is_returned_as_it_is(tile):
    assert macenko.fit(tile) is None and macenko.separate(tile) is None
    np.testing.assert_array_equal(macenko.apply(tile), tile)


def test_a_few_stained_pixels_are_no_reason_to_change_a_tile():
    tile = glass(64, 64)
    tile[:2, :16] = stained(2, 16)
    np.testing.assert_array_equal(macenko.apply(tile), tile)


def test_the_stains_of_a_slide_serve_for_its_tiles():
    tile = stained(64, 64)
    source = macenko.fit(tile)
    np.testing.assert_array_equal(macenko.apply(tile, source=source), macenko.apply(tile))
    half = macenko.apply(tile[:32], source=source)
    np.testing.assert_array_equal(half, macenko.apply(tile)[:32])
