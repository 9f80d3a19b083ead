from pathlib import Path

import numpy as np
import pytest
from painted_slides import glass, stained

from histojax.common.errors import UserError
from histojax.slides import macenko
from histojax.slides.settings import STAIN
from histojax.slides.stain import STAINS, fit_slide, normaliser

TISSUE = np.load(Path(__file__).parents[1] / "golden" / "patch_eval" / "macenko.npz")["source"]


def test_every_method_of_the_settings_is_there():
    assert {"none", *STAINS} == set(STAIN)


@pytest.mark.parametrize("name", list(STAINS))
def test_each_method_brings_two_labs_together(name):
    theirs = (240 * (TISSUE / 240) ** 1.4).astype(np.uint8)  # stained more strongly
    normalise = normaliser(name)
    before = np.abs(TISSUE.mean((0, 1)) - theirs.mean((0, 1))).max()
    after = np.abs(normalise(TISSUE).mean((0, 1)) - normalise(theirs).mean((0, 1))).max()
    assert normalise(TISSUE).dtype == np.uint8 and after < before / 2
    target = normaliser(name, theirs)(TISSUE)
    assert np.abs(target.mean((0, 1)) - theirs.mean((0, 1))).max() < before / 2
    np.testing.assert_array_equal(normalise(glass(30, 30)), glass(30, 30))


def test_none_is_the_tile_itself():
    tile = stained(8, 8)
    assert normaliser("none")(tile) is tile


def test_a_whole_slide_is_fitted_once():
    tiles = [stained(64, 64, seed) for seed in range(3)]
    source = fit_slide("macenko", tiles)
    together = macenko.fit(np.concatenate(tiles))
    np.testing.assert_allclose(source.stains, together.stains, atol=1e-6)
    np.testing.assert_array_equal(
        normaliser("macenko", source=source)(tiles[0]), macenko.apply(tiles[0], source=together)
    )
    assert fit_slide("reinhard", [glass(30, 30)]) is None


def test_wrong_names_and_targets_are_said():
    with pytest.raises(UserError, match="'vahadane' given, expected one of none, macenko, reinhard"):
        normaliser("vahadane")
    with pytest.raises(UserError, match=r"target image .* has no stained tissue"):
        normaliser("macenko", glass(30, 30))
