"""Which files are tiles: by the end of a name before reading, by their first bytes when they turn out to be none."""

from __future__ import annotations

import re

from histojax.common.first_bytes import known_start

FORMATS = {  # Pillow's name: the suffixes its files come with
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "WEBP": (".webp",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif",),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "QOI": (".qoi",),
    "PCX": (".pcx",),
    "SGI": (".sgi",),
    "SUN": (".ras",),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

OTHER = {  # what a file is that is no tile, and its suffixes
    "whole slides: cut them into tiles": (
        *(".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".czi", ".vsi", ".qptiff", ".dcm", ".dicom"),
        *(".svslide", ".isyntax", ".mds", ".kfb", ".sdpc", ".tmap"),
    ),
    "archives: unpack them": (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".lz4"),
    "images of a kind that is not read: save them as .png": (
        *(".heic", ".heif", ".jxl", ".jxr", ".wdp", ".hdp", ".psd", ".exr", ".raw", ".dng", ".cr2", ".nef", ".arw"),
        *(".svg", ".ico", ".pdf", ".eps", ".fits", ".tga"),  # a TGA has no mark that tells it from noise
    ),
    "arrays: save them as images": (".npy", ".npz", ".pt", ".pth", ".h5", ".hdf5", ".mat", ".pkl", ".zarr"),
}
OTHER_OF = {suffix: what for what, suffixes in OTHER.items() for suffix in suffixes}

STARTS = (  # first bytes of images that are not read
    (b"%PDF", "a PDF, not an image: save it as .png"),
    (b"\x93NUMPY", "a NumPy array, not an image: save it as .png"),
    (b"8BPS", "a Photoshop file: save it as .png"),
    (b"\xff\x0a", "a JPEG XL image, which is not read: save it as .png"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image, which is not read: save it as .png"),
    (b"v/1\x01", "an OpenEXR image, which is not read: save it as 8-bit .png"),
    (b"SIMPLE  =", "a FITS image, which is not read: save it as 8-bit .png"),
)


def is_tile_name(name: str) -> bool:
    """Whether a file of this name is read as a tile: its suffix in any case."""
    return name.lower().endswith(SUFFIXES)


def suffix_of(name: str) -> str:
    """The lower-case suffix of a file name, "" for none."""
    _, dot, last = name.rpartition("/")[2].rpartition(".")
    return f".{last.lower()}" if dot and re.fullmatch(r"[A-Za-z0-9_+-]{1,8}", last) else ""


def what_it_is(start: bytes) -> str:
    """What a file is that no image reader knows, by its first bytes, in words."""
    for prefix, what in STARTS:
        if start.startswith(prefix):
            return what
    known = known_start(start, "image", "an image")
    if known:
        return known
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"mif1", b"heim", b"hevc"):
        return "a HEIC image, which is not read: save it as .png"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "a TIFF of a kind that is not read: save it as 8-bit RGB .png"
    if start[:2] == b"\xff\xd8":
        return "a JPEG of a kind that is not read (lossless, or 12 bits?), or a damaged one: save it as 8-bit .png"
    return f"not a JPEG, PNG, TIFF or another image that is read (starts with {start[:8]!r})"
