"""From pixels of a level to pixels at an exact resolution.

The rule, one for all tiles and thumbnails: let a pixel asked for be f level px wide, f = k * r with k whole. First each
block of k x k level px becomes its mean (blocks are counted from the level's origin, so they are the same for every
tile), then Lanczos, antialiased, over the remaining 0.98 <= r < 2 at the tile's exact, fractional position. Where the
remainder is 1 and the position whole to a twentieth of a pixel, pixels are taken as they are. A tile therefore equals
the same place of the whole level resized; the box of a tile is honoured to a small fraction of a pixel at every mpp.

Lanczos is two products with sparse matrices in float32: half the time of Pillow's, and one rounding instead of two.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import csr_array

from histojax.slides.levels import Level

np.empty(30 << 20, np.uint8)  # glibc learns from its release to keep freed arrays up to this size: half the time a tile
# took was the kernel's, which gave and took back the same pages for each one

SNAP = 0.05  # px: closer to whole positions than this, nothing is interpolated
SUPPORT = 3  # of Lanczos, in pixels of the coarser side
WHITE = 255


@dataclass(frozen=True)
class Window:
    """What to read of a level for one tile, and what to do with it."""

    x: int  # level px, multiples of `block`; the window lies within the level
    y: int
    width: int
    height: int
    block: int
    box: tuple[float, float, float, float]  # left, upper, right, lower of the tile, level px
    size: tuple[int, int]  # of the tile: (width, height)


def make_window(level: Level, x: float, y: float, size: tuple[int, int], scale: float) -> Window:
    """The window of a tile of `size` px whose upper left corner is (x, y), level-0 px, at `scale` level-0 px per px."""
    steps = scale / level.ratio[0], scale / level.ratio[1]
    block = max(1, math.floor(min(steps) * 1.02))  # 1.98 counts as 2: enlarging by 1 % costs less than it saves
    left, upper = x / level.ratio[0], y / level.ratio[1]
    box = left, upper, left + size[0] * steps[0], upper + size[1] * steps[1]
    x0, x1 = _span(box[0], box[2], steps[0], block, level.width)
    y0, y1 = _span(box[1], box[3], steps[1], block, level.height)
    return Window(x0, y0, x1 - x0, y1 - y0, block, box, size)


def _span(start: float, stop: float, step: float, block: int, length: int) -> tuple[int, int]:
    """First and last level px to read: the box and a margin for the kernel, on whole blocks, within the level."""
    margin = 0.0 if _is_whole(start / block, stop / block, step / block) else SUPPORT * max(1.0, step / block)
    first = max(0, math.floor(start / block - margin + SNAP) * block)
    last = min(length, math.ceil(stop / block + margin - SNAP) * block)
    return (first, last) if first < last else (0, 0)


def _is_whole(start: float, stop: float, step: float) -> bool:
    """Whether pixels can be taken as they are."""
    near = abs(start - round(start)) < SNAP and abs(stop - round(stop)) < SNAP
    return near and round(stop) - round(start) == round((stop - start) / step)


def resample(pixels: np.ndarray, window: Window, x: float | None = None, y: float | None = None) -> np.ndarray:
    """The tile (height, width, 3) uint8 of a window that was read in blocks; white where the box leaves the level.

    `x`, `y` are where its first pixel lies, level px, if that is not the window's own corner but a fraction beside it:
    the box is then found that much further, except where the tile needs no resize and is taken as it was read.
    """
    width, height = window.size
    if pixels.size == 0:
        return np.full((height, width, 3), WHITE, np.uint8)
    left, right = ((edge - window.x) / window.block for edge in window.box[::2])
    upper, lower = ((edge - window.y) / window.block for edge in window.box[1::2])
    pixels, left, right = _pad(pixels, left, right, axis=1)
    pixels, upper, lower = _pad(pixels, upper, lower, axis=0)
    if _is_whole(left, right, (right - left) / width) and _is_whole(upper, lower, (lower - upper) / height):
        row, column = round(upper), round(left)
        return pixels[row : row + height, column : column + width].copy()
    aside = 0.0 if x is None else (window.x - x) / window.block
    below = 0.0 if y is None else (window.y - y) / window.block
    return lanczos(pixels, (left + aside, upper + below, right + aside, lower + below), window.size)


def lanczos(pixels: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """The box (left, upper, right, lower) of (h, w, 3) uint8 pixels resized to `size` (width, height)."""
    height, width = pixels.shape[:2]
    columns = _lanczos_weights(box[0], box[2], size[0], width)
    rows = _lanczos_weights(box[1], box[3], size[1], height)
    across = cv2.transpose(pixels).astype(np.float32).reshape(width, -1)  # columns as rows
    half = cv2.transpose((columns @ across).reshape(size[0], height, 3))
    whole = (rows @ half.reshape(height, -1)).reshape(size[1], size[0], 3)
    return cv2.convertScaleAbs(np.maximum(whole, 0, out=whole))  # rounds, and stops at 255


@functools.lru_cache(maxsize=512)  # the tiles of a row share one of them, those of a column the other
def _lanczos_weights(start: float, stop: float, size: int, length: int) -> csr_array:
    """(size, length) float32: what each of `length` pixels gives to each of the `size` that span start..stop."""
    step = (stop - start) / size
    stretch = max(step, 1.0)
    taps = math.ceil(2 * SUPPORT * stretch) + 1
    centres = start + (np.arange(size) + 0.5) * step
    pixels = np.ceil(centres - SUPPORT * stretch - 0.5).astype(np.int32)[:, None] + np.arange(taps, dtype=np.int32)
    at = (pixels + 0.5 - centres[:, None]) / stretch
    outside = (np.abs(at) >= SUPPORT) | (pixels < 0) | (pixels >= length)
    weights = np.where(outside, 0.0, np.sinc(at) * np.sinc(at / SUPPORT))
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    rows = np.arange(0, size * taps + 1, taps, dtype=np.int32)
    matrix = csr_array((weights.ravel(), pixels.clip(0, length - 1).ravel(), rows), shape=(size, length))
    matrix.eliminate_zeros()
    return matrix


def reduce_blocks(pixels: np.ndarray, block: int) -> np.ndarray:
    """Means of block x block pixels; where the last block is cut short by the level's edge, its last px is repeated."""
    if block == 1 or not pixels.size:
        return pixels
    height, width = pixels.shape[:2]
    rest_x, rest_y = -width % block, -height % block
    if rest_x or rest_y:
        pixels = cv2.copyMakeBorder(pixels, 0, rest_y, 0, rest_x, cv2.BORDER_REPLICATE)
    size = (width + rest_x) // block, (height + rest_y) // block
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _pad(pixels: np.ndarray, start: float, stop: float, axis: int) -> tuple[np.ndarray, float, float]:
    """Pixels with white added until they hold start..stop along the axis, and start and stop in them."""
    length = pixels.shape[axis]
    before, after = max(0, math.ceil(-start - SNAP)), max(0, math.ceil(stop - length - SNAP))
    if not before and not after:
        return pixels, start, stop
    widths = [(0, 0)] * 3
    widths[axis] = (before, after)
    return np.pad(pixels, widths, constant_values=WHITE), start + before, stop + before
