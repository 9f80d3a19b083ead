"""Encoded tiles to RGB arrays: everything the host does to pixels; `pixels` says how modes and depths become RGB.

Rules, the same for training and evaluation:

- The first bytes of a file say what it is, not its name.
- A tile of another size than asked for is resized, shorter side to `tile_px` (bicubic, antialiased), and its
  centre is kept.
- A file that cannot be read to its last row is an error, never a half-grey tile.
- Sizes and headers are looked at before bytes are read or decoded: no file can fill the memory.
"""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from histojax.common.depth import Unreadable
from histojax.common.pixels import check_single, rgb_pixels
from histojax.data.formats import FORMATS, what_it_is

MIN_SIDE_PX = 16  # below this a "tile" is the sliver left at a slide's border
MAX_PIXELS = 8192 * 8192  # below Pillow's own limit, so its warning never shows
SCAN_OF_JPEG, END_OF_JPEG = b"\xff\xda", b"\xff\xd9"
_TOO_MANY = f"more than {MAX_PIXELS} pixels: cut it into tiles first"
MAX_BYTES = 256 << 20  # of a file; 8192 x 8192 RGB uncompressed is 192 MiB
LOOK_FIRST_BYTES = 4 << 20  # from here on the header is looked at before the rest is read


class BadTile(Exception):
    """A file that cannot become a tile: `path` says which, `reason` why."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)  # both in args: the exception crosses process borders
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def decode_tile(data: bytes, path: str) -> np.ndarray:
    """(h, w, 3) uint8 RGB of an encoded image; raises BadTile that names `path` and the reason."""
    if not data:
        raise BadTile(path, "empty file (0 bytes)")
    reason = ""
    try:
        with _open(io.BytesIO(data)) as image:
            check_single(image)
            _check_end(image.format, data)
            return rgb_pixels(image, data)
    except Unreadable as error:
        reason = str(error)
    except Image.UnidentifiedImageError:
        reason = what_it_is(data[:32])
    except Image.DecompressionBombError:
        reason = _TOO_MANY
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error ... on broken files
        reason = f"damaged image ({type(error).__name__}: {str(error)[:200]})"
    raise BadTile(path, reason)  # out here: an exception raised above would keep `data` alive as its context


def _check_end(kind: str | None, data: bytes) -> None:
    """Raises Unreadable for a file whose end was never written, where its decoder does not notice.

    An interrupted copy may have its full size, zeros behind what came: some decoders make grey or black pixels of them.
    """
    cut = data.rfind(END_OF_JPEG) < data.rfind(SCAN_OF_JPEG) if kind == "JPEG" else False
    if cut or (kind in ("WEBP", "AVIF") and data.endswith(bytes(64))):
        raise Unreadable(f"the end of the {kind} is missing: was a copy or download interrupted?")


def read_checked(file: BinaryIO, size: int) -> bytes:
    """The bytes of an open, seekable file of `size`; raises Unreadable before reading what cannot be a tile."""
    if size > MAX_BYTES:
        raise Unreadable(
            f"{size / 2**20:.0f} MiB, more than the {MAX_BYTES >> 20} MiB of a tile: cut it into tiles first"
        )
    if size > LOOK_FIRST_BYTES:
        try:
            _open(file)
        except Image.UnidentifiedImageError:
            file.seek(0)
            raise Unreadable(what_it_is(file.read(32))) from None
        except Image.DecompressionBombError:
            raise Unreadable(_TOO_MANY) from None
        file.seek(0)
    return file.read(size)  # read(more) would allocate it


def _open(file: BinaryIO) -> Image.Image:
    """The image in a file, not loaded; raises Unreadable if it is too small or too large."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:  # a global switch of Pillow that some other library may have set
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    TiffImagePlugin.READ_LIBTIFF = True  # Pillow's own reader of uncompressed TIFF misreads planes and subsampling
    image = Image.open(file, formats=tuple(FORMATS))
    width, height = image.size
    if min(width, height) < MIN_SIDE_PX:
        raise Unreadable(f"too small: {width}x{height} px, at least {MIN_SIDE_PX} px a side is needed")
    if width * height > MAX_PIXELS:
        raise Unreadable(f"{width}x{height} px is more than {MAX_PIXELS} pixels: cut it into tiles first")
    return image


def fit_tile(tile: np.ndarray, tile_px: int) -> np.ndarray:
    """(tile_px, tile_px, 3) uint8: `tile` itself if it has that size, else resized and centre-cropped.

    The centre square of the shorter side is resampled with Pillow's antialiased bicubic filter, which sees the
    pixels around the square too: the result of resizing the shorter side to `tile_px` and cropping the centre.
    """
    height, width = tile.shape[:2]
    if height == width == tile_px:
        return tile
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(tile).resize((tile_px, tile_px), Image.Resampling.BICUBIC, box=box))


def encode_png(tile: np.ndarray) -> bytes:
    """PNG file of an (h, w, 3) uint8 array, lossless; fast rather than small."""
    buffer = io.BytesIO()
    Image.fromarray(tile).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
