"""Every way an image can be stored: decoded right, or refused by name."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms
from raw_files import png16, tiff

from histojax.data.decode import BadTile, decode_tile

RAMP = np.add.outer(np.arange(32) * 4, np.arange(40) * 3).astype(np.uint16)  # 0 ... 241
RGB = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], -1)
GREY = RAMP[..., None]


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def in_bits(picture: np.ndarray, bits: int) -> np.ndarray:
    """The 8-bit picture on the scale of `bits`, with something in the low bits."""
    noise = np.random.default_rng(0).integers(0, 1 << (bits - 8), picture.shape)
    return ((picture.astype(np.uint32) << (bits - 8)) + noise).astype(np.uint16)


def order(array: np.ndarray, which: str) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder(which))


WRITERS = {
    "png grey": (lambda a: png16(a), GREY),
    "png rgb": (lambda a: png16(a), RGB),
    "tiff grey": (lambda a: tiff(order(a, "<"), 1), GREY),
    "tiff grey, big-endian": (lambda a: tiff(order(a, ">"), 1, order=">"), GREY),
    "tiff rgb": (lambda a: tiff(order(a, "<"), 2), RGB),
    "tiff rgb, big-endian": (lambda a: tiff(order(a, ">"), 2, order=">"), RGB),
}


@pytest.mark.parametrize(("write", "picture"), WRITERS.values(), ids=WRITERS)
def test_16_bits_keep_the_high_byte_and_8_in_16_are_8(write, picture):
    for stored in (in_bits(picture + 10, 16), picture + 10, (picture // 4) * 257):
        wanted = picture // 4 if stored.max() % 257 == 0 and stored.max() > 255 else picture + 10
        assert (decode_tile(write(stored.astype(np.uint16)), "t") == wanted).all()


@pytest.mark.parametrize(("write", "picture"), WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("bits", [10, 12, 14, 15])
def test_fewer_bits_in_16_that_no_tag_tells_are_refused(write, picture, bits):
    with pytest.raises(BadTile, match=rf"16-bit samples that reach only \d+ \({bits} bits\?\), and no tag .*8-bit RGB"):
        decode_tile(write(in_bits(picture, bits)), "t")


TELLING = {
    "SMaxSampleValue": dict(t341=4095),
    "MaxSampleValue": dict(t281=4095),
    "OME": dict(t270='<OME><Pixels SignificantBits="12" Type="uint16"/></OME>'),
}


@pytest.mark.parametrize("tags", TELLING.values(), ids=TELLING)
@pytest.mark.parametrize(("picture", "photometric"), [(GREY, 1), (RGB, 2)], ids=["grey", "rgb"])
def test_tags_tell_the_scale(tags, picture, photometric):
    if "t341" in tags:
        tags = {"t341": (4095,) * picture.shape[2]}
    got = decode_tile(tiff(in_bits(picture, 12), photometric, **tags), "t")
    assert (got == picture).all()
    with pytest.raises(BadTile, match="beyond the 12 bits"):
        decode_tile(tiff(in_bits(picture, 16), photometric, **tags), "t")


def test_the_brightest_sample_is_no_scale():
    with pytest.raises(BadTile, match="no tag"):
        decode_tile(tiff(in_bits(GREY, 12), 1, t341=3021), "t")


def test_sbit_of_a_png_counts_where_samples_were_not_scaled_up():
    twelve = in_bits(GREY, 12)
    assert (decode_tile(png16(twelve, (b"sBIT", b"\x0c")), "t") == GREY).all()
    assert (decode_tile(png16(twelve << 4, (b"sBIT", b"\x0c")), "t") == GREY).all()
    assert (decode_tile(png16(twelve << 4 | twelve >> 8, (b"sBIT", b"\x0c")), "t") == GREY).all()
    dark = in_bits(GREY // 4, 12) << 4
    assert (decode_tile(png16(dark, (b"sBIT", b"\x0c")), "t") == GREY // 4).all()
    with pytest.raises(BadTile, match="no tag"):  # 8 bits made 12: the low bits tell nothing of the scale
        decode_tile(png16(GREY << 4, (b"sBIT", b"\x0c")), "t")
    three = in_bits(RGB, 12)
    assert (decode_tile(png16(three, (b"sBIT", b"\x0c\x0c\x0c")), "t") == RGB).all()


def packed12(samples: np.ndarray) -> np.ndarray:
    low, high = samples[:, ::2, 0], samples[:, 1::2, 0]
    parts = np.stack([low >> 4, (low & 15) << 4 | high >> 8, high & 255], -1).astype(np.uint8)
    return parts.reshape(len(samples), -1, 1)


def test_12_bits_packed():
    data = tiff(packed12(in_bits(GREY, 12)), 1, t256=40, t258=12)
    assert (decode_tile(data, "t") == GREY).all()


@pytest.mark.parametrize("bits", [10, 14])
def test_packed_depths_that_pillow_does_not_know_are_named(bits):
    with pytest.raises(BadTile, match="TIFF of a kind that is not read"):
        decode_tile(tiff(packed12(in_bits(GREY, 12)), 1, t256=32, t258=bits), "t")


@pytest.mark.parametrize("planes", [False, True], ids=["chunky", "planar"])
def test_min_is_white(planes):
    eight = GREY.astype(np.uint8)
    assert (decode_tile(tiff(255 - eight, 0, planes=planes), "t") == GREY).all()
    assert (decode_tile(tiff(65535 - in_bits(GREY, 16), 0, planes=planes), "t") == GREY).all()
    black = np.zeros((32, 5, 1), np.uint8)
    assert (decode_tile(tiff(black, 0, planes=planes, t256=40, t258=1), "t") == 255).all()


def test_planes():
    for picture in (RGB.astype(np.uint8), in_bits(RGB, 16)):
        assert (decode_tile(tiff(picture, 2, planes=True), "t") == RGB).all()
    with pytest.raises(BadTile, match="lower half of their scale"):
        decode_tile(tiff(in_bits(RGB, 12), 2, planes=True), "t")
    for alpha in (1, 2):  # 8 bits in 16, of which Pillow has no low bytes
        four = np.concatenate([RGB, np.full((32, 40, 1), 255)], 2).astype(np.uint16)
        with pytest.raises(BadTile, match="lower half"):
            decode_tile(tiff(four, 2, planes=True, t338=alpha), "t")
    stack = tiff(RGB.astype(np.uint8)[..., :1], 1, pages=3)
    with pytest.raises(BadTile, match="a stack of 3 pages of 40x32 px"):
        decode_tile(stack, "t")
    one = tiff(RGB.astype(np.uint8)[..., :1], 1, t270="ImageJ=1.53t\nimages=3\nchannels=3\n")
    with pytest.raises(BadTile, match=r"a stack of ImageJ \(images=3\)"):
        decode_tile(one, "t")


@pytest.mark.parametrize("scale", [1, 257], ids=["8 bits", "16 bits"])
def test_palettes_of_8_and_of_16_bits(scale):
    colours = tuple((np.arange(256) * scale).tolist() * 3)
    assert (decode_tile(tiff(GREY.astype(np.uint8), 3, t320=colours), "t") == GREY).all()


SIGNED = {
    "8 bits": tiff(GREY.astype(np.int8), 1, t339=2),
    "16 bits": tiff(GREY.astype(np.int16), 1, t339=2),
    "float": tiff(GREY.astype(np.float32), 1, t339=3),
    "32 bits": tiff(GREY.astype(np.uint32) << 20, 1),
}


@pytest.mark.parametrize("data", SIGNED.values(), ids=SIGNED)
def test_signed_32_bit_and_float_samples_are_refused(data):
    with pytest.raises(BadTile, match="8-bit RGB"):
        decode_tile(data, "t")


def test_16_bit_transparency():
    opaque, clear = np.full((32, 40, 1), 65535), np.zeros((32, 40, 1))
    for colours in (RGB, GREY):
        stored = in_bits(colours, 16)
        assert (decode_tile(png16(np.concatenate([stored, opaque], 2).astype(np.uint16)), "t") == colours).all()
        assert (decode_tile(png16(np.concatenate([stored, clear], 2).astype(np.uint16)), "t") == 255).all()
    stored = in_bits(GREY, 16)
    stored[:4] = 40000
    got = decode_tile(png16(stored, (b"tRNS", (40000).to_bytes(2, "big"))), "t")
    assert (got[:4] == 255).all() and (got[4:][stored[4:, :, 0] != 40000] < 250).all()


COLOUR = (200, 60, 90)


def lab(image: Image.Image) -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")


COLOURED = {
    "ycbcr tiff": lambda i: saved(i.convert("YCbCr"), "TIFF"),
    "ycbcr jpeg in tiff": lambda i: saved(i.convert("YCbCr"), "TIFF", compression="jpeg"),
    "lab tiff": lambda i: saved(lab(i), "TIFF"),
    "cmyk tiff": lambda i: saved(i.convert("CMYK"), "TIFF"),
    "cmyk jpeg": lambda i: saved(i.convert("CMYK"), "JPEG", quality=95),
    "palette with a clear colour": lambda i: saved(i.quantize(2), "PNG", transparency=1),
    "webp": lambda i: saved(i, "WEBP", lossless=True),
    "jp2": lambda i: saved(i, "JPEG2000"),
    "bmp": lambda i: saved(i, "BMP"),
    "gif": lambda i: saved(i, "GIF"),
    "avif": lambda i: saved(i, "AVIF", quality=95),
    "ppm": lambda i: saved(i, "PPM"),
    "qoi": lambda i: saved(i, "QOI") if "QOI" in Image.SAVE else saved(i, "BMP"),
    "ycbcr tiff with half the colours": lambda i: subsampled(i),
}


def subsampled(image: Image.Image) -> bytes:
    """Uncompressed YCbCr, 2 x 2 pixels a pair of colours, as libtiff's default says."""
    y, cb, cr = image.convert("YCbCr").getpixel((0, 0))
    blocks = np.tile(np.array([y, y, y, y, cb, cr], np.uint8), 16 * 20).reshape(16, 120, 1)
    data = tiff(blocks, 6, t256=40, t257=32, t258=(8, 8, 8), t277=3, t278=32, t530=(2, 2))
    return data


@pytest.mark.parametrize("write", COLOURED.values(), ids=COLOURED)
def test_colour_spaces_and_containers(write):
    got = decode_tile(write(Image.new("RGB", (40, 32), COLOUR)), "t")
    assert got.shape == (32, 40, 3) and np.abs(got.astype(int) - COLOUR).max() <= 4


def test_12_bit_cmyk_is_refused_and_16_bit_is_right():
    cmyk = np.broadcast_to(np.array([0, 140, 110, 55]), (32, 40, 4))
    assert np.abs(decode_tile(tiff(in_bits(cmyk, 16), 5), "t").astype(int) - (200, 90, 114)).max() <= 4
    with pytest.raises(BadTile, match="no tag"):
        decode_tile(tiff(in_bits(cmyk, 12), 5), "t")


def test_animations_are_refused_and_a_pyramid_is_its_largest_page():
    frames = [Image.new("RGB", (40, 32), (i, 0, 0)) for i in (10, 200)]
    for kind in ("GIF", "WEBP", "PNG"):
        with pytest.raises(BadTile, match="stack of 2 frames"):
            decode_tile(saved(frames[0], kind, save_all=True, append_images=frames[1:]), "t")
    small = frames[1].resize((20, 16))
    assert (decode_tile(saved(frames[0], "TIFF", save_all=True, append_images=[small]), "t")[0, 0] == (10, 0, 0)).all()
    with pytest.raises(BadTile, match="not the largest"):
        decode_tile(saved(small, "TIFF", save_all=True, append_images=[frames[0]]), "t")


def test_grey_of_few_bits():
    one = Image.fromarray(RAMP > 100)
    for kind in ("PNG", "TIFF", "BMP"):
        assert (decode_tile(saved(one, kind), "t") == np.where(RAMP > 100, 255, 0)[..., None]).all()
    pgm = b"P5 40 32 4095\n" + in_bits(GREY, 12).astype(">u2").tobytes()
    assert np.abs(decode_tile(pgm, "t").astype(int) - GREY).max() <= 1
    dark = b"P6 40 32 65535\n" + in_bits(RGB, 12).astype(">u2").tobytes()
    with pytest.raises(BadTile, match="fewer bits"):
        decode_tile(dark, "t")


STARTS = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
    "page": (b"<!doctype html><title>404</title>", "download failed"),
    "zeros": (bytes(5000), "only zero bytes"),
    "zip": (b"PK\x03\x04" + bytes(100), "unpack"),
}


@pytest.mark.parametrize(("data", "reason"), STARTS.values(), ids=STARTS)
def test_files_that_only_carry_an_image_s_name(data, reason):
    with pytest.raises(BadTile, match=reason):
        decode_tile(data, "t.png")
