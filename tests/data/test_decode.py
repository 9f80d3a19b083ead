import io
import pickle

import numpy as np
import pytest
from PIL import Image
from tile_files import file_bytes

from histojax.data.decode import MIN_SIDE_PX, BadTile, decode_tile, encode_png, fit_tile

RAMP = np.add.outer(np.arange(32) * 4, np.arange(40) * 2).astype(np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_rgb_is_exact_and_png_round_trips(kind):
    tile = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    assert (decode_tile(file_bytes(tile, kind), "t") == tile).all()
    assert (decode_tile(encode_png(tile), "t") == tile).all()


def test_jpeg_is_close():
    tile = np.repeat(RAMP[..., None], 3, 2)
    assert np.abs(decode_tile(file_bytes(tile, "JPEG", quality=95), "t").astype(int) - tile).max() < 8


def test_a_jpeg_with_something_behind_its_end_is_read():
    assert (
        decode_tile(file_bytes(NOISE, "JPEG") + bytes(99), "t") == decode_tile(file_bytes(NOISE, "JPEG"), "t")
    ).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_the_high_byte(kind):
    grey = np.add.outer(np.arange(32) * 1500, np.arange(40) * 300).astype(np.uint16)
    got = decode_tile(saved(Image.fromarray(grey), kind), "t")
    assert (got == (grey >> 8)[..., None]).all() and got.max() > 200


def test_8_bit_grey_and_palette_become_rgb():
    assert (decode_tile(saved(Image.fromarray(RAMP)), "t") == RAMP[..., None]).all()
    colours = Image.new("P", (20, 20), 1)
    colours.putpalette([0, 0, 0, 200, 30, 90])
    assert (decode_tile(saved(colours), "t") == (200, 30, 90)).all()


def test_transparency_is_composited_on_white():
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[..., 0] = 100
    rgba[:10, :, 3] = 255  # opaque above, clear below
    rgba[5, :, 3] = 128
    got = decode_tile(saved(Image.fromarray(rgba)), "t")
    assert (got[:5] == (100, 0, 0)).all() and (got[10:] == 255).all()
    np.testing.assert_allclose(got[5], np.broadcast_to((177, 127, 127), (20, 3)), atol=1)
    grey_alpha = Image.merge("LA", (Image.new("L", (20, 20), 10), Image.new("L", (20, 20), 0)))
    assert (decode_tile(saved(grey_alpha), "t") == 255).all()


def test_cmyk_jpeg_becomes_rgb():
    cmyk = Image.new("RGB", (32, 32), (200, 60, 90)).convert("CMYK")
    got = decode_tile(saved(cmyk, "JPEG", quality=95), "t")
    assert got.shape == (32, 32, 3) and np.abs(got.astype(int) - (200, 60, 90)).max() < 12


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"hello, I am a text file", "not a JPEG"),
        (file_bytes(NOISE, "JPEG")[:-200], "interrupted"),
        (file_bytes(NOISE, "JPEG")[:300], ""),
        (file_bytes(NOISE, "JPEG")[:-2000] + bytes(2000), "interrupted"),
        (file_bytes(NOISE, "JPEG", progressive=True)[:-2000] + bytes(2000), ""),
        (file_bytes(NOISE, "PNG")[:-400], "damaged"),
        (file_bytes(NOISE, "TIFF")[:-5000], ""),
        (file_bytes(NOISE, "WEBP")[:-100] + bytes(100), "the end of the WEBP is missing"),
        (b"%PDF-1.7", "a PDF"),
        (file_bytes(NOISE[: MIN_SIDE_PX - 1]), "too small"),
        (saved(Image.new("1", (8193, 8193))), "cut it into tiles"),
        (saved(Image.new("1", (20000, 20000))), "cut it into tiles"),
        (saved(Image.new("F", (32, 32)), "TIFF"), "floating-point"),
    ],
    ids=(
        "empty text jpeg-cut jpeg-head jpeg-zeros progressive-zeros png-cut tiff-cut webp-zeros pdf sliver "
        "big bomb float"
    ).split(),
)
def test_bad_tiles_name_path_and_reason(data, reason):
    with pytest.raises(BadTile, match=r"some/tile\.png") as caught:
        decode_tile(data, "some/tile.png")
    assert reason in caught.value.reason


def test_truncated_images_stay_errors_when_a_library_allowed_them(monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(BadTile):
        decode_tile(file_bytes(NOISE, "JPEG")[:-200], "t")


def test_bad_tile_survives_pickling():
    error = pickle.loads(pickle.dumps(BadTile("a.png", "empty")))
    assert (error.path, error.reason, str(error)) == ("a.png", "empty", "a.png: empty")


def test_fit_resizes_the_shorter_side_and_keeps_the_centre():
    tile = np.zeros((40, 80, 3), np.uint8)
    tile[:, 20:60] = 200  # exactly the centre square
    assert (fit_tile(tile, 40) == 200).all()
    small = fit_tile(np.full((50, 45, 3), 9, np.uint8), 224)
    assert small.shape == (224, 224, 3) and (small == 9).all()
    assert fit_tile(tile[:, :40], 40) is not None and (fit_tile(tile[:, :40], 40) == tile[:, :40]).all()


def test_fit_equals_resizing_the_whole_image_then_cropping():
    tile = np.random.default_rng(1).integers(0, 256, (60, 100, 3), np.uint8)
    whole = np.asarray(Image.fromarray(tile).resize((50, 30), Image.Resampling.BICUBIC))
    assert np.abs(fit_tile(tile, 30).astype(int) - whole[:, 10:40]).max() <= 1
