"""Encoded tiles to RGB arrays: everything the host does to pixels.

Rules, the same for training and evaluation:

- Grey, palette, CMYK and other modes become RGB; transparency is composited on white, the colour of empty glass.
- 16 bits a channel become 8 by keeping the high byte (x >> 8), which is what Pillow does to 16-bit RGB files.
- A tile of another size than asked for is resized, shorter side to `tile_px` (bicubic, antialiased), and its
  centre is kept. Orientation tags (EXIF) are ignored and of a multi-page TIFF the first page is read.
- A file that cannot be read to its last row is an error, never a half-grey tile.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFile

ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "TIFF")
MIN_SIDE_PX = 16  # below this a "tile" is the sliver left at a slide's border
MAX_PIXELS = 8192 * 8192  # below Pillow's own limit, so its warning never shows


class BadTile(Exception):
    """A record that cannot become a tile: `path` says which, `reason` why."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)  # both in args: the exception crosses process borders
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def decode_tile(data: bytes, path: str) -> np.ndarray:
    """(h, w, 3) uint8 RGB of an encoded JPEG, PNG or TIFF; raises BadTile that names `path` and the reason."""
    if not data:
        raise BadTile(path, "empty file (0 bytes)")
    if ImageFile.LOAD_TRUNCATED_IMAGES:  # a global switch of Pillow that some other library may have set
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, path)
            return np.array(_to_rgb(image, path), np.uint8)
    except BadTile:
        raise
    except Image.UnidentifiedImageError:
        raise BadTile(path, f"not a JPEG, PNG or TIFF image (starts with {data[:8]!r})") from None
    except Image.DecompressionBombError:
        raise BadTile(path, f"more than {MAX_PIXELS} pixels: cut it into tiles first") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error ... on broken files
        raise BadTile(path, f"damaged image ({type(error).__name__}: {error})") from None


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


def _check_size(size: tuple[int, int], path: str) -> None:
    width, height = size
    if min(width, height) < MIN_SIDE_PX:
        raise BadTile(path, f"too small: {width}x{height} px, at least {MIN_SIDE_PX} px a side is needed")
    if width * height > MAX_PIXELS:
        raise BadTile(path, f"{width}x{height} px is more than {MAX_PIXELS} pixels: cut it into tiles first")


def _to_rgb(image: Image.Image, path: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise BadTile(path, "floating-point pixels: save as 8-bit RGB")
    if image.mode == "I" or image.mode.startswith("I;16"):
        high_byte = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(high_byte.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
