"""Tiles decoded directly are OpenSlide's, pixel for pixel; where they might not be, OpenSlide reads."""

import numpy as np
import openslide
import pytest
from pyramids import jpeg_streams, picture, write_pyramid

from histojax.slides import direct_reader
from histojax.slides.direct_reader import DirectReader
from histojax.slides.openslide_file import OpenslideFile
from histojax.slides.slide import BadSlide, open_slide

IMAGE = picture(1303, 1001)
COORDS = np.stack(np.meshgrid(np.arange(0, 1303 - 200, 133), np.arange(0, 1001 - 200, 133)), -1).reshape(-1, 2)
KINDS = {
    "4:2:0": dict(),
    "4:2:2": dict(subsampling=(2, 1)),
    "4:4:4": dict(subsampling=(1, 1)),
    "RGB": dict(rgb=True),
    "tables": dict(jpeg_tables=True, quality=30),
    "RGB tables": dict(jpeg_tables=True, rgb=True, quality=30),
    "generic": dict(vendor="generic", tile=256),
    "JPEG 2000": dict(compression="aperio_jp2000_rgb", tile=256, quality=70),
    "not whole": dict(downsamples=(1, 3.97, 8.02)),
}
DIRECT = "JPEG tiles decoded directly"


@pytest.mark.parametrize("kind", KINDS)
def test_every_pixel_of_every_level_equals_openslides(tmp_path, kind):
    path = write_pyramid(tmp_path / "a.tif", IMAGE, **KINDS[kind])
    with open_slide(path) as slide, openslide.OpenSlide(path) as theirs:
        assert slide.decoder == DIRECT.replace("JPEG", "JPEG 2000" if kind == "JPEG 2000" else "JPEG")
        direct = slide._direct
        for i, level in enumerate(slide.levels):
            whole = np.asarray(theirs.read_region((0, 0), i, (level.width, level.height)))
            assert (whole[..., 3] == 255).all()
            for row, column in np.ndindex(direct.levels[i].counts.shape):
                x, y, width, height = direct.levels[i].place(row, column)
                tile = direct.tile(i, row, column)
                assert (tile == whole[y : y + height, x : x + width, :3]).all()


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.77, 1.0, 1.14])
@pytest.mark.parametrize("tile", [240, 256])
def test_tiles_equal_those_cut_from_openslides_pixels(tmp_path, mpp, tile, monkeypatch):
    """Where OpenSlide hits every pixel: cached or not, reduced early or late."""
    path = write_pyramid(tmp_path / "a.svs", IMAGE[:1000, :1300], tile=tile)
    with open_slide(path) as slide:
        direct = list(slide.tiles(COORDS, 60, mpp))
        monkeypatch.setattr(DirectReader, "takes", lambda self, level: False)
        assert all((a == b).all() for a, b in zip(direct, slide.tiles(COORDS, 60, mpp), strict=True))


def test_each_jpeg_tile_is_decoded_once(tmp_path, monkeypatch):
    path, seen = write_pyramid(tmp_path / "a.svs", IMAGE), []
    read = DirectReader.tile
    monkeypatch.setattr(DirectReader, "tile", lambda self, *place: seen.append(place) or read(self, *place))
    with open_slide(path) as slide:
        tiles = list(slide.tiles(COORDS, 133, 0.25))
        assert len(seen) == len(set(seen)) >= 20 and len(tiles) == len(COORDS)


def test_a_small_cache_costs_time_but_no_pixels(tmp_path, monkeypatch):
    path = write_pyramid(tmp_path / "a.svs", IMAGE)
    with open_slide(path) as slide:
        expected = list(slide.tiles(COORDS, 133, 0.5))
        monkeypatch.setattr(direct_reader, "CACHE_BYTES", 1)
        assert all((a == b).all() for a, b in zip(expected, slide.tiles(COORDS, 133, 0.5), strict=True))


def test_other_compressions_are_openslides(tmp_path):
    with open_slide(write_pyramid(tmp_path / "a.svs", IMAGE, compression="deflate")) as slide:
        assert slide.decoder.startswith("OpenSlide (compression ")


def test_a_level_that_decodes_to_other_pixels_is_left_to_openslide(tmp_path, monkeypatch):
    path = write_pyramid(tmp_path / "a.svs", IMAGE)
    with open_slide(path) as slide:
        expected = slide.tile(100, 100, 64, 0.5)
    direct_reader._TRUSTED.clear()
    monkeypatch.setattr(direct_reader.TiledLevel, "decode", lambda self, *_: np.zeros((240, 240, 3), np.uint8))
    with open_slide(path) as slide:
        assert slide.decoder == "OpenSlide (the tiles of level 1 do not decode to OpenSlide's pixels)"
        assert np.abs(slide.tile(100, 100, 64, 0.5).astype(int) - expected).max() <= 1


STREAM = jpeg_streams(picture(240, 240, 1), 240, 90, (2, 2), False)[0]
HALF = len(STREAM) // 2
DAMAGE = {
    "zeros": bytes(len(STREAM)),
    "cut short": STREAM[:HALF],
    "cut short, then zeros": STREAM[:HALF] + bytes(HALF),
    "a hole": STREAM[:HALF] + bytes(512) + STREAM[HALF + 512 :],
    "noise": STREAM[:HALF] + np.random.default_rng(0).integers(0, 256, 900, np.uint8).tobytes() + STREAM[HALF + 900 :],
    "text": b"nothing to see here",
    "another size": jpeg_streams(picture(64, 64), 64, 90, (2, 2), False)[0],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_tile_spoils_only_what_touches_it(tmp_path, kind):
    """Tile 9 of level 0 is column 3, row 1 of 6 columns: x 720..960, y 240..480."""
    path = write_pyramid(tmp_path / "a.svs", IMAGE, spoil={(0, 9): DAMAGE[kind]})
    sound = write_pyramid(tmp_path / "b.svs", IMAGE)
    with open_slide(path) as slide, open_slide(sound) as other:
        assert slide.decoder == DIRECT
        for (x, y), tile, expected in zip(COORDS, slide.tiles(COORDS, 133, 0.25), other.tiles(COORDS, 133, 0.25)):
            if 720 - 133 < x < 960 and 240 - 133 < y < 480:
                assert isinstance(tile, BadSlide) and "cannot be read" in tile.reason and "JPEG" in tile.reason
            else:
                assert (tile == expected).all()
        assert slide.thumbnail(1.0)[0].shape == (250, 326, 3)  # from another level


def test_missing_tiles_are_painted_as_openslide_does(tmp_path):
    path = write_pyramid(tmp_path / "a.svs", IMAGE, spoil={(0, 9): b"", (1, 1): b""})
    with open_slide(path) as slide, openslide.OpenSlide(path) as theirs:
        assert (slide.tile(720, 240, 240, 0.25) == 255).all()
        ours = slide.tile(240 * 4, 0, 80, 1.0)
        painted = np.asarray(theirs.read_region((round(240 * theirs.level_downsamples[1]), 0), 1, (80, 80)))
        assert ours.min() < 200 and np.abs(ours.astype(int) - painted[..., :3]).max() < 40


def test_a_suspect_that_openslide_accepts_is_read(tmp_path):
    """The exact grey of a block without data may be a picture's, too."""
    image = IMAGE.copy()
    image[:480] = 128
    with open_slide(write_pyramid(tmp_path / "a.svs", image)) as slide:
        assert (slide.tile(0, 0, 480, 0.25) == 128).all() and slide.decoder == DIRECT


def test_a_truncated_slide_is_read_as_far_as_it_goes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1001, 1303, 3), np.uint8)
    path = write_pyramid(tmp_path / "a.svs", noise, downsamples=(1,), quality=100, subsampling=(1, 1))
    assert path.stat().st_size > 5e6  # of smaller ones OpenSlide reads all when it opens them
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with open_slide(path) as slide:
        tiles = list(slide.tiles(COORDS, 133, 0.25))
        bad = [isinstance(tile, BadSlide) for tile in tiles]
        assert 0 < sum(bad) < len(bad) and not bad[0]
        assert "truncated" in next(tile for tile in tiles if isinstance(tile, BadSlide)).reason
        image, _ = slide.thumbnail(2.0)
        assert image.shape == (125, 163, 3) and 0.5 < (image < 255).mean() < 0.8
        assert "of its thumbnail is white" in slide.notes[0]


def test_a_disk_that_fails_is_an_error_of_the_slide(tmp_path, monkeypatch):
    path = write_pyramid(tmp_path / "a.svs", IMAGE)

    def gone(*args):
        raise OSError(5, "Input/output error")

    with open_slide(path) as slide:
        slide.tile(0, 0, 32, 0.25)
        monkeypatch.setattr("os.pread", gone)
        with pytest.raises(BadSlide, match="cannot be read: Input/output error"):
            slide.tile(300, 300, 32, 0.25)


def test_the_reader_of_a_slide_without_tiles_says_why(tmp_path):
    path = write_pyramid(tmp_path / "a.svs", IMAGE)
    file = OpenslideFile(path, "a")
    file.vendor = "hamamatsu"
    assert DirectReader(file).describe() == "OpenSlide (vendor hamamatsu)"
