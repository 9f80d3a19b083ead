import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from pyramids import picture

from histojax.slides import plain_image
from histojax.slides.slide import BadSlide, open_slide

IMAGE = picture(120, 90)
GREY = IMAGE[..., 0]
DEEP = IMAGE.astype(np.uint16) * 257


def whole(path) -> np.ndarray:
    with open_slide(path, 0.5) as slide:
        width, height = slide.size
        return slide.tile(0, 0, max(width, height), 0.5)[:height, :width]


@pytest.mark.parametrize("kind", ["png", "tif", "bigtiff", "planar", "deflate"])
def test_rgb_is_exact(tmp_path, kind):
    path = tmp_path / "a.tif"
    if kind == "png":
        Image.fromarray(IMAGE).save(path, "PNG")  # the content tells, not the name
    elif kind == "planar":
        tifffile.imwrite(path, np.moveaxis(IMAGE, -1, 0), photometric="rgb", planarconfig="separate")
    else:
        compression = "deflate" if kind == "deflate" else None
        tifffile.imwrite(path, IMAGE, photometric="rgb", bigtiff=kind == "bigtiff", compression=compression)
    assert (whole(path) == IMAGE).all()


def test_jpeg_is_close(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(whole(tmp_path / "a.jpg").astype(int) - IMAGE).mean() < 6


@pytest.mark.parametrize("kind", ["BMP", "WEBP", "JPEG2000"])
def test_other_formats_of_images_are_exact_where_they_lose_nothing(tmp_path, kind):
    Image.fromarray(IMAGE).save(tmp_path / "a.img", kind, **{"WEBP": {"lossless": True}}.get(kind, {}))
    assert (whole(tmp_path / "a.img") == IMAGE).all()


@pytest.mark.parametrize("compression", ["jpeg2000", "zstd"])
def test_tiled_tiffs_that_openslide_cannot_decode_are_images(tmp_path, compression):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb", tile=(64, 64), compression=compression)
    assert (whole(tmp_path / "a.tif") == IMAGE).all()


@pytest.mark.parametrize("axes", ["CYX", "ZYXS", "QYX"])
def test_stacks_are_refused_when_they_are_opened(tmp_path, axes):
    planes = np.stack([IMAGE, IMAGE]) if axes == "ZYXS" else np.moveaxis(IMAGE, -1, 0).copy()
    kind = "rgb" if axes == "ZYXS" else "minisblack"
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, photometric=kind, metadata={"axes": axes})
    with pytest.raises(BadSlide, match=r"images of one size .planes, channels or times"):
        open_slide(tmp_path / "a.ome.tif", 0.5)


def test_the_largest_image_of_a_tiff_is_the_slide(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(IMAGE[::4, ::4], photometric="rgb", metadata=None)  # a thumbnail in front
        file.write(IMAGE, photometric="rgb", metadata=None)
    assert (whole(tmp_path / "a.tif") == IMAGE).all()


def test_16_bits_of_which_12_are_used_are_refused_not_shown_in_black(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE.astype(np.uint16) * 16, photometric="rgb")
    with open_slide(tmp_path / "a.tif", 0.5) as slide, pytest.raises(BadSlide, match=r"12 bits\?.*8-bit RGB"):
        slide.tile(0, 0, 8, 0.5)


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_grey_and_16_bits_become_rgb(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    Image.fromarray(GREY).save(path)
    assert (whole(path) == GREY[..., None]).all()
    Image.fromarray(DEEP[..., 0]).save(path)
    assert (whole(path) == GREY[..., None]).all()


def test_16_bit_colour_and_inverted_grey_of_tiff(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", DEEP, photometric="rgb")
    assert (whole(tmp_path / "a.tif") == IMAGE).all()
    tifffile.imwrite(tmp_path / "a.tif", 255 - GREY, photometric="miniswhite")
    assert (whole(tmp_path / "a.tif") == GREY[..., None]).all()


def test_palettes(tmp_path):
    few = Image.fromarray(IMAGE).quantize(16)
    for kind in ("png", "tif"):
        few.save(tmp_path / f"a.{kind}")
        assert (whole(tmp_path / f"a.{kind}") == np.asarray(few.convert("RGB"))).all()


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_transparency_lies_on_white(tmp_path, kind):
    rgba = np.dstack([IMAGE, np.full(GREY.shape, 255, np.uint8)])
    rgba[:40, :, 3] = 0
    rgba[40, :, 3] = 128
    Image.fromarray(rgba).save(tmp_path / f"a.{kind}")
    got = whole(tmp_path / f"a.{kind}")
    assert (got[:40] == 255).all() and (got[41:] == IMAGE[41:]).all()
    assert np.abs(got[40] - (IMAGE[40] / 255 * 128 + 127)).max() <= 1


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (np.zeros((20, 20), np.float32), {}, "its pixels are float32: save it as 8-bit RGB"),
        (np.zeros((20, 20, 4), np.uint8), {"photometric": "separated"}, "its colours are SEPARATED"),
    ],
)
def test_other_pixels_are_refused(tmp_path, array, options, words):
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    with open_slide(tmp_path / "a.tif", 0.5) as slide, pytest.raises(BadSlide, match=words):
        slide.tile(0, 0, 8, 0.5)


def test_a_damaged_image_is_named_when_it_is_read(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with open_slide(tmp_path / "a.png", 0.5) as slide:
        assert isinstance(next(slide.tiles([[0, 0]], 8, 0.5)), BadSlide)
        with pytest.raises(BadSlide, match="this PNG cannot be decoded"):
            slide.thumbnail(1.0)


def png_of_size(width: int, height: int) -> bytes:
    """The start of a PNG that claims a size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + bytes(4) + b"IDAT"
    )


def test_an_absurd_size_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of_size(60000, 50000))
    with pytest.raises(
        BadSlide, match=r"a plain PNG of 60000x50000 px would take 9\.0 GB in memory: make it a pyramid"
    ):
        open_slide(tmp_path / "a.png", 0.5)


def test_large_images_pass_pillows_limit(tmp_path, monkeypatch):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert (whole(tmp_path / "a.png") == IMAGE).all()
    assert Image.MAX_IMAGE_PIXELS == 100


def test_it_has_no_associated_images(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", 0.5) as slide:
        assert slide.associated() == {} and slide.properties == {} and slide.decoder.startswith("plain PNG")
        with pytest.raises(BadSlide, match="no associated image 'label'"):
            slide.associated_image("label")
    assert plain_image.plain_format(b"GIF89a") == ""
