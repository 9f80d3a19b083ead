"""Plain images (PNG, JPEG, TIFF, BMP, WebP, JPEG 2000) as slides of one level, on the rules that hold for tiles.

Their mpp must be given, for they hold none to be trusted.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from histojax.common.depth import Unreadable, bits_of_tiff, to_8_bits
from histojax.common.pixels import check_single, rgb_pixels
from histojax.slides.bad_slide import BadSlide
from histojax.slides.jpeg_tiles import TIFF_ERRORS
from histojax.slides.openslide_file import on_white

STARTS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"RIFF", "WebP"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
)
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_PIXELS = 1 << 30  # 3 GB in memory; a pyramid is the format for more
CONVERT = "make it a pyramid, which is read in pieces: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"
_LIMIT = threading.Lock()


def plain_format(start: bytes) -> str:
    """PNG, JPEG, TIFF ... by the first bytes of a file, "" if none of them."""
    for prefix, kind in STARTS:
        if start.startswith(prefix) and (kind != "WebP" or start[8:12] == b"WEBP"):
            return kind
    return "TIFF" if start[:4] in TIFF_STARTS else ""


class PlainImage:
    """One image, decoded as a whole when its first pixel is asked for."""

    properties: Mapping[str, str] = {}
    sizes: tuple[tuple[int, int], ...]

    def __init__(self, path: Path, shown: str, kind: str) -> None:
        """Reads the size of the image of format `kind`. Raises BadSlide."""
        self.path, self.shown, self.kind, self.vendor = path, shown, kind, f"plain {kind}"
        self._pixels: np.ndarray | None = None
        try:
            width, height = self._tiff_size() if kind == "TIFF" else self._size()
        except Unreadable as error:
            raise BadSlide(shown, f"this {kind} is not read ({error})") from error
        except (*TIFF_ERRORS, SyntaxError) as error:
            raise BadSlide(shown, f"a damaged {kind} ({self._line(error)})") from error
        if width * height > MOST_PIXELS:
            size = f"{3 * width * height / 1e9:.1f} GB in memory"
            raise BadSlide(shown, f"a plain {kind} of {width}x{height} px would take {size}: {CONVERT}")
        self.sizes = ((width, height),)

    def _line(self, error: Exception) -> str:
        return " ".join(str(error).replace(str(self.path), "it").split())[:200] or type(error).__name__

    def _size(self) -> tuple[int, int]:
        with _any_size(), Image.open(self.path) as image:
            check_single(image)
            return image.size

    def _tiff_size(self) -> tuple[int, int]:
        with tifffile.TiffFile(self.path) as file:
            page = _only_page(file)
            return page.imagewidth, page.imagelength

    def read(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, float, float]:
        """(height, width, 3) uint8 from (x, y), and (x, y). Raises BadSlide if the image cannot be decoded."""
        if self._pixels is None:
            try:
                self._pixels = self._decode_tiff() if self.kind == "TIFF" else self._decode()
            except (*TIFF_ERRORS, SyntaxError, MemoryError, RuntimeError, Unreadable) as error:
                raise BadSlide(self.shown, f"this {self.kind} cannot be decoded ({self._line(error)})") from error
        return self._pixels[y : y + height, x : x + width], x, y

    def _decode(self) -> np.ndarray:
        with _any_size(), Image.open(self.path) as image:
            return rgb_pixels(image, self.path.read_bytes())

    def _decode_tiff(self) -> np.ndarray:
        with tifffile.TiffFile(self.path) as file:
            page = _only_page(file)
            pixels, kind = page.asarray(), page.photometric
            bits = bits_of_tiff({tag.code: tag.value for tag in page.tags})
            if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
                pixels = np.moveaxis(pixels, 0, -1)
            if kind == tifffile.PHOTOMETRIC.PALETTE:
                return to_rgb(np.moveaxis(np.asarray(page.colormap)[:, pixels], 0, -1), 16)
        names = tifffile.PHOTOMETRIC
        if kind not in (names.RGB, names.YCBCR, names.MINISBLACK, names.MINISWHITE):
            raise ValueError(f"its colours are {names(kind).name}: save it as 8-bit RGB")
        pixels = to_rgb(pixels, bits)
        return 255 - pixels if kind == names.MINISWHITE else pixels

    def associated(self) -> dict[str, tuple[int, int]]:
        """None."""
        return {}

    def associated_image(self, name: str) -> np.ndarray:
        """Raises BadSlide: there is none."""
        raise BadSlide(self.shown, f"a plain {self.kind} has no associated image {name!r}")

    def close(self) -> None:
        """Lets the pixels go."""
        self._pixels = None


def _only_page(file: tifffile.TiffFile) -> tifffile.TiffPage:
    """The largest image of a TIFF; raises Unreadable for a stack, of which none is the slide."""
    images = [series for series in file.series if {"Y", "X"} <= set(series.axes)]
    sizes = [math.prod(n for axis, n in zip(one.axes, one.shape) if axis in "YX") for one in images]
    largest = images[sizes.index(max(sizes))]
    count = math.prod(n for axis, n in zip(largest.axes, largest.shape) if axis not in "YXS")
    if count > 1:
        raise Unreadable(
            f"{count} images of one size (planes, channels or times?): save the one that is the slide as RGB"
        )
    return largest.keyframe


def to_rgb(pixels: np.ndarray, bits: int | None = None) -> np.ndarray:
    """(h, w, 3) uint8 of grey, grey with alpha, RGB or RGBA in 8 or 16 bits; `bits` that a sample uses, if known.

    Raises ValueError for other kinds, Unreadable where the scale of 16 bits is not known.
    """
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype == np.uint16:
        pixels = to_8_bits(pixels, bits)
    if pixels.dtype != np.uint8:
        raise ValueError(f"its pixels are {pixels.dtype}: save it as 8-bit RGB")
    if pixels.ndim == 2:
        return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_GRAY2RGB)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4):
        raise ValueError(f"its pixels have the shape {pixels.shape}: save it as 8-bit RGB")
    if pixels.shape[2] in (2, 4):
        colour = np.repeat(pixels[..., :1], 3, 2) if pixels.shape[2] == 2 else pixels[..., :3]
        return on_white(np.concatenate([colour, pixels[..., -1:]], axis=2))
    return np.ascontiguousarray(pixels) if pixels.shape[2] == 3 else np.repeat(pixels, 3, 2)


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """Lifts Pillow's limit for the block: sizes are checked here, against a limit of our own."""
    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
