"""JPEG and JPEG 2000 tiles of a level, found with tifffile and decoded one by one: OpenSlide without its detours.

OpenSlide turns each JPEG tile into premultiplied ARGB, paints it, and turns the painting into RGBA again; on a level
whose downsample is no whole number it also interpolates. Here a tile of the level is decoded once, by the same library
(libjpeg-turbo, its default transform and upsampling), with the file's tables and colour space.

libjpeg decodes damaged data without complaint, and imagecodecs does not tell its warnings, which OpenSlide takes for
errors. A stream that looks damaged (`looks_damaged`) is therefore left to OpenSlide, as are missing tiles.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from histojax.common.files import reason

VENDORS = ("aperio", "generic-tiff")  # others overlap, stitch or pad their tiles
SPACES: dict[int, str] = {tifffile.PHOTOMETRIC.RGB: "RGB", tifffile.PHOTOMETRIC.YCBCR: "YCBCR"}
CODECS: dict[int, str] = {7: "JPEG", 33005: "JPEG 2000"}  # tag Compression; the latter is Aperio's, of RGB
MARKER_WITHIN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
HOLE = bytes(64)  # so many zeros are rather a lost sector than picture
CORNER_PX, NOTHING_LEFT = 8, 128  # the last block, and the grey of one without data
TIFF_ERRORS = (  # what tifffile raises at damaged files
    *(OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError),
    *(struct.error, tifffile.TiffFileError),
)


class Damaged(Exception):
    """A tile whose data are missing or look damaged, the text says which: OpenSlide has the last word on it."""


class Unreadable(Exception):
    """A tile whose bytes cannot be had at all; the text says why."""


@dataclass(frozen=True)
class TiledLevel:
    """Where the JPEG tiles of one level lie in the file."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    codec: str
    space: str  # colour space of JPEG streams
    tables: bytes | None
    offsets: np.ndarray = field(repr=False)  # (rows, columns) int64
    counts: np.ndarray = field(repr=False)  # bytes; 0 for a missing tile

    def place(self, row: int, column: int) -> tuple[int, int, int, int]:
        """x, y, width, height of a tile, level px, within the level."""
        x, y = column * self.tile_width, row * self.tile_height
        return x, y, min(self.tile_width, self.width - x), min(self.tile_height, self.height - y)

    def decode(self, handle: int, row: int, column: int) -> np.ndarray:
        """(height, width, 3) uint8 of one tile, without what lies beyond the edge. Raises Damaged, Unreadable."""
        count = int(self.counts[row, column])
        if not count:
            raise Damaged("missing")
        try:
            data = os.pread(handle, count, int(self.offsets[row, column]))
        except OSError as error:
            raise Unreadable(reason(error)) from error
        if len(data) < count:
            raise Unreadable("the file ends before it: truncated?")
        pixels = self._pixels(data)
        _, _, width, height = self.place(row, column)
        return pixels[:height, :width]

    def _pixels(self, data: bytes) -> np.ndarray:
        try:
            if self.codec == "JPEG 2000":
                pixels = imagecodecs.jpeg2k_decode(data, numthreads=1)
            else:
                pixels = imagecodecs.jpeg8_decode(data, tables=self.tables, colorspace=self.space, outcolorspace="RGB")
        except (imagecodecs.Jpeg8Error, imagecodecs.Jpeg2kError, ValueError, RuntimeError) as error:
            raise Damaged(str(error)) from error
        if pixels.shape != (self.tile_height, self.tile_width, 3) or pixels.dtype != np.uint8:
            raise Damaged(f"decodes to {pixels.dtype} of the shape {pixels.shape}")
        if self.codec == "JPEG" and looks_damaged(data, pixels):
            raise Damaged("looks damaged")
        return pixels


def looks_damaged(data: bytes, pixels: np.ndarray) -> bool:
    """Whether a JPEG stream was cut short, overwritten or has a hole; a sound one is rarely suspected.

    Signs: no end marker, a marker or a long run of zeros within the picture's data, or a last corner of the exact grey
    that libjpeg leaves where it ran out of data.
    """
    scan = data.find(b"\xff\xda") + 12
    end = data.rfind(b"\xff\xd9")
    if end < scan or data[end + 2 :].strip(b"\0"):
        return True
    if MARKER_WITHIN.search(data, scan, end) or data.find(HOLE, scan, end) >= 0:
        return True
    if pixels[-1, -1, 0] != NOTHING_LEFT:
        return False
    corner = pixels[-CORNER_PX:, -CORNER_PX:]
    return bool(corner.min() == corner.max())


def find_levels(path: Path, vendor: str, sizes: tuple[tuple[int, int], ...]) -> tuple[dict[int, TiledLevel], str]:
    """The levels whose tiles can be decoded directly, and why the others cannot ("" if all can)."""
    if vendor not in VENDORS:
        return {}, f"vendor {vendor}"
    try:
        with tifffile.TiffFile(path) as file:
            by_size = _tiled_pages(file)
            found = [_tiled_level(by_size.get(size)) for size in sizes]
    except TIFF_ERRORS as error:
        return {}, f"tifffile cannot read its directory ({type(error).__name__})"
    levels = {i: level for i, level in enumerate(found) if isinstance(level, TiledLevel)}
    return levels, next((why for why in found if isinstance(why, str)), "")


def compressions(path: Path, sizes: tuple[tuple[int, int], ...]) -> list[str]:
    """How the tiles of each level of a TIFF are compressed, e.g. JPEG; "" where that is not known."""
    try:
        with tifffile.TiffFile(path) as file:
            by_size = _tiled_pages(file)
            return [_name(by_size[size].compression) if size in by_size else "" for size in sizes]
    except TIFF_ERRORS:
        return [""] * len(sizes)


def _tiled_pages(file: tifffile.TiffFile) -> dict[tuple[int, int], tifffile.TiffPage]:
    """The tiled pages of a TIFF by (width, height), the first of a size."""
    pages = [page for page in file.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
    return {(page.imagewidth, page.imagelength): page for page in reversed(pages)}


def _tiled_level(page: tifffile.TiffPage | None) -> TiledLevel | str:
    """The level of a page, or why it is none that is decoded directly."""
    if page is None:
        return "a level without a page of its own"
    if page.compression not in CODECS:
        return f"compression {_name(page.compression)}"
    if page.photometric not in SPACES or (page.samplesperpixel, page.bitspersample, page.planarconfig) != (3, 8, 1):
        return f"colours {_name(page.photometric)}, {page.samplesperpixel} x {page.bitspersample} bits"
    rows, columns = -(-page.imagelength // page.tilelength), -(-page.imagewidth // page.tilewidth)
    if len(page.dataoffsets) != rows * columns or len(page.databytecounts) != rows * columns:
        return "a directory of tiles that does not fit the level"
    return TiledLevel(
        page.imagewidth, page.imagelength, page.tilewidth, page.tilelength,
        CODECS[page.compression], SPACES[page.photometric], page.jpegtables,
        np.asarray(page.dataoffsets, np.int64).reshape(rows, columns),
        np.asarray(page.databytecounts, np.int64).reshape(rows, columns),
    )  # fmt: skip


def _name(value: object) -> str:
    return getattr(value, "name", str(value))
