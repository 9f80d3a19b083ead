"""From a tile to the pixels that an encoder's authors show to their network, as torchvision and Pillow do it.

All on the host, in two steps: resize and crop of uint8 (`fit`), whose result is what workers send to the device, and
the arithmetic of `normalise`, which the device can do as well. The resize is Pillow's own, in 8-bit fixed point.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from PIL import Image

from histojax.common.depth import Unreadable
from histojax.common.errors import UserError
from histojax.common.pixels import rgb_pixels

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MAX_SIDE = 1 << 15
HINTS = {  # by the kind of a dtype
    "f": ": floats from 0 to 1 become (x * 255).round().astype(uint8)",
    "u": ": bring it to 8 bits on the scale of the scanner, e.g. 12 bits by (x >> 4).astype(uint8)",
    "i": ": make it uint8 after a look at its range",
    "b": ": a mask, not a picture",
}


class Rule(Protocol):
    """What is done to a tile; histojax.zoo.record.Preprocess is one."""

    @property
    def size(self) -> int: ...
    @property
    def crop(self) -> int | None: ...
    @property
    def filter(self) -> str: ...
    @property
    def mean(self) -> tuple[float, float, float]: ...
    @property
    def std(self) -> tuple[float, float, float]: ...
    @property
    def scale(self) -> float: ...


def fit(tile: np.ndarray, rule: Rule) -> np.ndarray:
    """(h, w, 3) uint8: `tile` (H, W, 3) uint8 resized and cropped; a square one gives (side, side, 3).

    A tile that needs neither is returned itself, not copied. Raises UserError for anything but uint8 RGB.
    """
    if tile.ndim != 3 or tile.shape[2] != 3 or tile.dtype != np.uint8 or not min(tile.shape):
        raise UserError(
            f"a tile must be uint8 of shape (height, width, 3), got {tile.dtype} {tile.shape}"
            + HINTS.get(tile.dtype.kind if tile.ndim == 3 and tile.shape[2] == 3 else "", "")
        )
    tile = resize_shorter(tile, rule.size, rule.filter)
    return tile if rule.crop is None else centre_crop(tile, rule.crop)


def as_array(tile: Any) -> np.ndarray:
    """The pixels of an array, or of a Pillow image of any mode as `pixels.rgb_pixels` reads it; raises UserError."""
    if isinstance(tile, (str, bytes, os.PathLike)):
        raise UserError(f"a tile must be an array or a Pillow image, got {tile!r:.80}: open it with PIL.Image.open")
    if not isinstance(tile, Image.Image):
        return np.asarray(tile)
    try:
        return rgb_pixels(tile, _unloaded_file(tile))
    except Unreadable as error:
        raise UserError(f"an image of mode {tile.mode}: {error}") from None


def _unloaded_file(image: Image.Image) -> bytes | None:
    """The file of an image that is opened and not loaded: it has more than Pillow keeps of 16 bits."""
    file = getattr(image, "fp", None)
    if not getattr(image, "tile", None) or file is None:
        return None
    file.seek(0)
    return file.read()


def fit_all(tiles: Iterable[Any], rule: Rule) -> np.ndarray:
    """(N, h, w, 3) uint8 of `fit` of each tile, an array or a Pillow image.

    Raises UserError if they do not become equal in size, and for pixels of 0 and 1 alone.
    """
    arrays = [as_array(tile) for tile in tiles]
    fitted = [fit(tile, rule) for tile in arrays]
    if max((int(tile.max()) for tile in arrays), default=0) == 1:
        raise UserError("the tiles hold only 0 and 1: floats from 0 to 1 made uint8? Multiply by 255 first")
    sizes = sorted({tile.shape[:2] for tile in fitted})
    if len(sizes) > 1:
        raise UserError(
            f"tiles of one batch must have one size after preprocessing, got {sizes[0]} and {sizes[1]} "
            "(height, width): cut square tiles"
        )
    return np.stack(fitted) if fitted else np.zeros((0, rule.crop or rule.size, rule.crop or rule.size, 3), np.uint8)


def normalise(tiles: np.ndarray, rule: Rule) -> np.ndarray:
    """float32 of the same shape, (x * scale - mean) / std, channels last."""
    mean, std = (np.asarray(values, np.float32) for values in (rule.mean, rule.std))
    return (tiles.astype(np.float32) / np.float32(1 / rule.scale) - mean) / std  # torchvision divides by 255


def resize_shorter(tile: np.ndarray, size: int, filter: str) -> np.ndarray:
    """`tile` with its shorter side resized to `size`, the other one in proportion, rounded down.

    torchvision's Resize(size) on a Pillow image: antialiased, and the identity if the side has that length. Of tiles
    that are not square the grey levels are those of the installed Pillow: each of its two passes rounds to them, and
    newer versions begin with the axis that is cheaper, older ones with the width. With the filter "none" a tile of
    another size is a UserError.
    """
    if filter not in (*FILTERS, "none"):
        raise UserError(f"unknown filter {filter!r}; known are {', '.join(FILTERS)}, none")
    height, width = tile.shape[:2]
    short, long = sorted((height, width))
    if short == size:
        return tile
    if filter == "none":
        raise UserError(
            f"a tile of {width}x{height} px cannot be fed as it is: the network takes {size} px; cut tiles of that "
            "size, or leave resize=False out"
        )
    longer = int(size * long / short)
    if longer > MAX_SIDE:
        raise UserError(f"a tile of {width}x{height} px cannot be resized to {size} px: it is a sliver")
    new_size = (size, longer) if width <= height else (longer, size)  # Pillow: width, height
    return np.asarray(Image.fromarray(tile).resize(new_size, FILTERS[filter]))


def centre_crop(tile: np.ndarray, size: int) -> np.ndarray:
    """The centre (size, size) of `tile`, where torchvision's CenterCrop takes it; raises UserError if it is smaller."""
    height, width = tile.shape[:2]
    if min(height, width) < size:
        raise UserError(f"cannot crop {size} px from a tile of {width}x{height} px")
    top, left = (round((side - size) / 2) for side in (height, width))  # Python rounds halves to even, as there
    return tile[top : top + size, left : left + size]
