"""From a tile to the pixels that an encoder's authors show to their network, as torchvision and Pillow do it.

All on the host, in two steps: resize and crop of uint8 (`fit`), whose result is what workers send to the device, and
the arithmetic of `normalise`, which the device can do as well. The resize is Pillow's own, in 8-bit fixed point.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from PIL import Image

from histojax.common.errors import UserError

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MAX_SIDE = 1 << 15


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
        raise UserError(f"a tile must be uint8 of shape (height, width, 3), got {tile.dtype} {tile.shape}")
    tile = resize_shorter(tile, rule.size, rule.filter)
    return tile if rule.crop is None else centre_crop(tile, rule.crop)


def fit_all(tiles: Iterable[np.ndarray], rule: Rule) -> np.ndarray:
    """(N, h, w, 3) uint8 of `fit` of each tile; raises UserError if they do not become equal in size."""
    fitted = [fit(np.asarray(tile), rule) for tile in tiles]
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
    newer versions begin with the axis that is cheaper, older ones with the width.
    """
    if filter not in FILTERS:
        raise UserError(f"unknown filter {filter!r}; known are {', '.join(FILTERS)}")
    height, width = tile.shape[:2]
    short, long = sorted((height, width))
    if short == size:
        return tile
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
