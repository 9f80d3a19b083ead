import pickle

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from pyramids import picture, shrink, write_pyramid

from histojax.slides.slide import BadSlide, open_slide, slide_name


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_pyramid(tmp_path_factory.mktemp("slide") / "a.b.svs", picture(1303, 1001), 0.25, compression="deflate")


def test_a_slide_tells_its_size_levels_and_resolution(path):
    with open_slide(path) as slide:
        assert (slide.name, slide.vendor, slide.size) == ("a.b", "aperio", (1303, 1001))
        assert (slide.mpp, slide.mpp_from, slide.notes) == (0.25, "metadata (openslide.mpp-x)", ())
        assert [(level.width, level.height, level.downsample) for level in slide.levels] == [
            (1303, 1001, 1.0),
            (325, 250, 4.0),
        ]


def test_pixels_of_level_0_are_taken_as_they_are(path):
    with open_slide(path) as slide:
        assert (slide.tile(501, 333, 64, 0.25) == picture(1303, 1001)[333:397, 501:565]).all()


def test_the_next_finer_level_is_read_and_resized_exactly(tmp_path):
    """At 2.0 mpp from the level of 1.0: means of 2 x 2 of its pixels."""
    image = picture(1304, 1000)
    expected = cv2.resize(shrink(image, 4)[20:84, 40:104], (32, 32), interpolation=cv2.INTER_AREA)
    with open_slide(write_pyramid(tmp_path / "a.svs", image, compression="deflate")) as slide:
        assert (slide.tile(160, 80, 32, 2.0) == expected).all()


@pytest.mark.parametrize("mpp", [0.3, 0.61, 1.14, 2.7])
def test_a_tile_is_the_same_place_of_the_whole_slide_resized(path, mpp):
    with open_slide(path) as slide:
        whole, scale = slide.thumbnail(mpp)
        places = [(column, row) for column in (0, 7, 20) for row in (0, 11)]
        for column, row in places:
            x, y = round(column * scale), round(row * scale)
            if abs(x - column * scale) + abs(y - row * scale) > 0.01:
                continue
            assert np.abs(slide.tile(x, y, 32, mpp).astype(int) - whole[row : row + 32, column : column + 32]).max() < 3


def test_outside_is_white(path):
    with open_slide(path) as slide:
        tile = slide.tile(1303 - 32, 1001 - 16, 64, 0.25)
        assert (tile[16:] == 255).all() and (tile[:, 32:] == 255).all()
        assert (tile[:16, :32] == picture(1303, 1001)[-16:, -32:]).all()
        tile = slide.tile(-1000, -2000, 256, 1.14)
        assert (tile == 255).all()
        tile = slide.tile(-114, -100, 256, 1.14)
        assert (tile[:20, :20] == 255).all() and tile[60:, 60:].min() < 200


def test_tiles_come_in_the_order_of_their_coordinates(path):
    coords = np.array([[600, 300], [0, 0], [600, 300], [1290, 990]])
    with open_slide(path) as slide:
        for (x, y), tile in zip(coords.tolist(), slide.tiles(coords, 48, 0.7), strict=True):
            assert (tile == slide.tile(x, y, 48, 0.7)).all()


def test_a_finer_resolution_than_the_slide_has_is_refused(path):
    with open_slide(path) as slide:
        with pytest.raises(BadSlide, match=r"has 0\.25 mpp, .* than the 0\.2 asked for; ask for 0\.25 or more"):
            slide.tile(0, 0, 32, 0.2)
        with pytest.raises(BadSlide):
            slide.tiles([[0, 0]], 32, 0.2)
        assert slide.tile(0, 0, 32, 0.246).shape == (32, 32, 3)  # 2 % are let pass


def test_a_thumbnail_is_never_finer_than_the_slide(path):
    with open_slide(path) as slide:
        image, scale = slide.thumbnail(0.1)
        assert scale == 1 and (image == picture(1303, 1001)).all()


def test_a_macro_image_among_the_levels_is_said_and_not_used(tmp_path):
    image = picture(900, 700)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for level, pixels in enumerate([image, np.zeros((200, 500, 3), np.uint8)]):
            file.write(pixels, tile=(64, 64), photometric="rgb", metadata=None, subfiletype=int(level > 0))
    with open_slide(tmp_path / "a.tif", 0.5) as slide:
        assert len(slide.levels) == 2 and slide.notes[0].startswith("its level 1 of 500x200 px has other proportions")
        assert slide.thumbnail(4.0)[0].mean() > 100


def test_a_slide_is_opened_anew_where_it_is_unpickled(path):
    with open_slide(path, 0.5) as slide, pickle.loads(pickle.dumps(slide)) as other:
        assert (other.path, other.mpp, other.mpp_from) == (slide.path, 0.5, "given")
        assert (other.tile(9, 9, 32, 1.0) == slide.tile(9, 9, 32, 1.0)).all()


def test_names(tmp_path):
    assert slide_name("x/TCGA-1.ab-cd.svs") == "TCGA-1.ab-cd"
    (tmp_path / "series.1").mkdir()
    assert slide_name(tmp_path / "series.1") == "series.1"


def test_a_plain_image_is_a_slide_of_one_level(tmp_path):
    Image.fromarray(picture(300, 200)).save(tmp_path / "a.png")
    with pytest.raises(BadSlide, match="give it with --mpp"):
        open_slide(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", "0,5") as slide:
        assert (slide.mpp, slide.mpp_from, slide.vendor, slide.size) == (0.5, "given", "plain PNG", (300, 200))
        assert (slide.tile(10, 20, 64, 0.5) == picture(300, 200)[20:84, 10:74]).all()
