import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_files import png16

from histojax.common.errors import UserError
from histojax.data.preprocess import centre_crop, fit, fit_all, normalise, resize_shorter
from histojax.zoo.record import Preprocess
from histojax.zoo.table import ENCODERS

# corners of the images and outputs of preprocess.npz: resizing keeps the ratio, so they are those of the whole
CORNER = np.load(Path(__file__).parents[1] / "golden" / "extractors" / "preprocess_corner.npz")
WHOLE = Path(__file__).parents[3] / "shared" / "golden" / "extractors" / "preprocess.npz"


@pytest.mark.parametrize(
    "source, px, size, filter, key",
    [
        ("tile256", 32, 28, "bilinear", "tile256:bilinear224"),
        ("tile256", 32, 28, "bicubic", "tile256:bicubic224_center"),
        ("tile224", 35, 40, "bilinear", "tile224:bilinear256"),
    ],
)
def test_resize_equals_pillow_to_the_grey_level(source, px, size, filter, key):
    wanted = CORNER[key]
    height, width = wanted.shape[:2]
    got = resize_shorter(CORNER[source][:px, :px], size, filter)
    np.testing.assert_array_equal(got[:height, :width], wanted)


def test_enlarging_and_cropping_equal_pillow_to_the_grey_level():
    tile = CORNER["tile224"][:35, :35]  # the centre 224 of 256 px starts at 16
    cropped = resize_shorter(tile, 40, "bicubic")[16:34, 16:34]
    np.testing.assert_array_equal(cropped, CORNER["tile224:bicubic256_center224"])
    large = resize_shorter(CORNER["tile256"], 144, "bilinear")[::8, ::8]
    np.testing.assert_array_equal(large[:16, :16], CORNER["tile256:bilinear1024_stride8"])


@pytest.mark.parametrize(
    "encoder, key, step",
    [
        ("sam_vit_b", "tile256:sam_float_stride32", 32),
        ("resnet50", "tile256:bilinear224_imagenet_stride8", 8),
        ("imagebind_huge", "tile256:bicubic224_center_clip_stride8", 8),
        ("beit_paper", "tile256:beit_fb_pipeline_stride8", 8),
    ],
)
def test_normalised_pixels(encoder, key, step):
    rule = ENCODERS[encoder].preprocess
    tile = CORNER["tile256"][:32, :32]
    fitted = resize_shorter(tile, 32 * rule.size // 256, rule.filter)
    got = normalise(fitted, rule)[: 4 * step : step, : 4 * step : step]
    assert got.dtype == np.float32
    np.testing.assert_allclose(np.moveaxis(got, -1, 0), CORNER[key], atol=1e-6, rtol=0)


@pytest.mark.skipif(not WHOLE.exists(), reason="the whole golden images are not beside the checkout")
def test_all_of_the_golden_images():
    golden, seen = np.load(WHOLE), 0
    for key in golden:
        match = re.fullmatch(r"(\w+):(bilinear|bicubic)(\d+)(_center(\d*))?(_stride8)?", key)
        if match is None:
            continue
        source, filter, size, centre, crop, stride = match.groups()
        rule = Preprocess(int(size), int(crop or size) if centre else None, filter)
        got = fit(golden[source], rule)
        np.testing.assert_array_equal(got[::8, ::8] if stride else got, golden[key], key)
        seen += 1
    assert seen == 20
    large = fit(golden["tile256"], ENCODERS["sam_vit_b"].preprocess)
    np.testing.assert_array_equal(large.sum((0, 1), dtype=np.int64), golden["tile256:bilinear1024_sum"])


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(20, 31), (31, 20), (16, 16), (57, 19), (333, 144), (600, 200), (19, 170)])
def test_square_wide_and_tall_tiles_are_resized_by_one_call_of_pillow(shape, filter):
    """That is torchvision's Resize; in which order Pillow goes over the axes is left to it."""
    tile = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    scale = 128 / min(shape)
    height, width = (int(side * scale + 1e-9) for side in shape)
    whole = Image.fromarray(tile).resize((width, height), Image.Resampling[filter.upper()])
    np.testing.assert_array_equal(resize_shorter(tile, 128, filter), np.asarray(whole))


def test_a_tile_of_the_right_size_is_left_alone():
    tile = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    assert fit(tile, Preprocess(24)) is tile
    assert np.shares_memory(fit(tile, Preprocess(24, 24)), tile)
    wide = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    assert fit(wide, Preprocess(24)) is wide  # no crop unless asked for


@pytest.mark.parametrize("side, size, start", [(11, 8, 2), (9, 8, 0), (13, 8, 2), (10, 8, 1), (11, 6, 2)])
def test_centre_crop_starts_where_torchvision_does(side, size, start):
    """int(round((side - size) / 2)): halves go to the even number."""
    tile = np.arange(side * side * 3, dtype=np.uint8).reshape(side, side, 3)
    np.testing.assert_array_equal(centre_crop(tile, size), tile[start : start + size, start : start + size])


@pytest.mark.parametrize(
    "tile, message",
    [
        (np.zeros((8, 8, 3), np.float32), r"uint8 of shape \(height, width, 3\), got float32"),
        (np.zeros((8, 8), np.uint8), r"got uint8 \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"got uint8 \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), r"got uint8 \(0, 8, 3\)"),
        (np.zeros((1, 4000, 3), np.uint8), "sliver"),
    ],
)
def test_bad_tiles(tile, message):
    with pytest.raises(UserError, match=message):
        fit(tile, Preprocess(224))


def test_batches():
    rule = Preprocess(8, 8)
    tiles = [np.full((n, n, 3), n, np.uint8) for n in (8, 9, 16)]
    out = fit_all(tiles, rule)
    assert out.shape == (3, 8, 8, 3) and out.dtype == np.uint8 and (out[1] == 9).all()
    assert fit_all([], rule).shape == (0, 8, 8, 3)
    with pytest.raises(UserError, match=r"one size after preprocessing.*\(8, 8\) and \(8, 12\)"):
        fit_all([tiles[0], np.zeros((8, 12, 3), np.uint8)], Preprocess(8))


def test_unknown_filter_and_too_small_for_the_crop():
    tile = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UserError, match="unknown filter 'nearest'; known are bilinear, bicubic"):
        fit(tile, dataclasses.replace(Preprocess(9), filter="nearest"))
    with pytest.raises(UserError, match="cannot crop 16 px from a tile of 8x8 px"):
        fit(tile, Preprocess(8, 16))


RULE = Preprocess(size=32, crop=None)


@pytest.mark.parametrize("mode", ["L", "1", "P", "PA", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I"])
def test_pillow_images_of_any_mode_are_what_they_show(mode):
    grey = mode in ("L", "1", "LA", "I;16", "I")
    image = Image.new("RGB", (32, 32), (255, 255, 255) if mode == "1" else (160, 160, 160) if grey else (204, 51, 102))
    shown = np.asarray(image).astype(int)
    given = image.convert("P").convert("PA") if mode == "PA" else image.convert("L" if grey else mode)
    got = fit_all([given.convert(mode)], RULE)
    assert got.shape == (1, 32, 32, 3) and np.abs(got[0] - shown).max() <= 4


def test_pillow_images_on_an_unknown_scale_are_refused():
    for image in (Image.new("F", (32, 32), 0.5), Image.new("I", (32, 32), 70000), Image.new("I;16", (32, 32), 4000)):
        with pytest.raises(UserError, match=f"an image of mode {image.mode}: .*8-bit RGB"):
            fit_all([image], RULE)


def test_a_16_bit_file_that_is_only_opened_keeps_its_low_bits(tmp_path):
    (tmp_path / "t.png").write_bytes(png16(np.full((32, 32, 3), 160, np.uint16)))
    assert (fit_all([Image.open(tmp_path / "t.png")], RULE) == 160).all()


def test_arrays_that_are_no_pictures_say_what_to_do():
    with pytest.raises(UserError, match=r"open it with PIL\.Image\.open"):
        fit_all(["a.png"], RULE)
    tile = np.full((32, 32, 3), 1, np.uint8)
    with pytest.raises(UserError, match="only 0 and 1"):
        fit_all([tile, 0 * tile], RULE)
    assert (fit_all([0 * tile], RULE) == 0).all()
    for dtype, hint in ((np.float32, "x \\* 255"), (np.uint16, "x >> 4"), (bool, "a mask")):
        with pytest.raises(UserError, match=hint):
            fit_all([tile.astype(dtype)], RULE)
