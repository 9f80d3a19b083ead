import json

import pytest

from histojax.common.errors import UserError
from histojax.slides.settings import PRESETS, TileSettings, settings_from


def test_the_papers_two_settings():
    assert (PRESETS["extract"].tile_px, PRESETS["extract"].mpp) == (256, 1.0)
    assert (PRESETS["finetune"].tile_px, PRESETS["finetune"].mpp) == (512, 0.5)
    assert settings_from({"overlap_px": 64}, "finetune").step_px == 448


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("tile_px", 8, "--tile-px: 8 given, expected a whole number from 16 to 8192"),
        ("tile_px", 256.5, "a whole number"),
        ("mpp", float("nan"), "--target-mpp: nan given"),
        ("mpp", "fine", "--target-mpp: 'fine' given, expected a number"),
        ("mpp", True, "--target-mpp: True"),
        ("overlap_px", 256, "--overlap-px: 256 given, expected less than the tile's 256 pixels"),
        ("tissue", "deep", "--tissue: 'deep' given, expected one of otsu, white, histobistro, none"),
        ("checks", ("blank", "ink"), "--checks: .* expected any of blank, pen, blur"),
        ("checks", "blank", "--checks"),
        ("min_tissue", 1.5, "--min-tissue: 1.5 given, expected a number from 0 to 1"),
        ("max_tiles", 0, "--max-tiles: 0 given"),
        ("stain", "vahadane", "--stain"),
        ("min_saturation", 99, "--min-saturation: 99.0 given, expected at most max_saturation, 15"),
    ],
)
def test_wrong_values_are_named(field, value, said):
    with pytest.raises(UserError, match=said):
        TileSettings(**{field: value})


def test_unknown_fields_and_presets_are_named():
    with pytest.raises(UserError, match=r"tile settings have no tile_size; there are .*tile_px"):
        settings_from({"tile_size": 256})
    with pytest.raises(UserError, match="--preset: 'train' given, expected one of extract, finetune"):
        settings_from({}, "train")


def test_settings_survive_json_and_their_digest_tells_them_apart():
    settings = TileSettings(checks=("blur", "blank"), max_tiles=100)
    again = settings_from(json.loads(json.dumps(settings.as_dict())))
    assert again == settings and again.digest() == settings.digest() and again.checks == ("blank", "blur")
    assert len({settings.digest(), TileSettings().digest(), TileSettings(mpp=0.5).digest()}) == 3
    assert TileSettings(mpp=1).digest() == TileSettings(mpp=1.0).digest()
