"""Where the tissue is: a mask on a thumbnail of the slide, and how much of each tile it covers.

Saturation tells stained tissue from glass. Otsu's threshold is used only within narrow bounds: on a slide without
tissue it would split noise, on one without glass eosin from haematoxylin, and on most it would leave fat to the glass,
which shows a saturation of 1 to 9 where that of fat is 2 to 30. Glass with a haze of stain may pass; its tiles are
blank to the checks of their pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

from histojax.slides.ink import BLACK_BELOW, black, ink
from histojax.slides.settings import TileSettings

WHITE_ABOVE = (175, 190, 178)  # red, green, blue of glass in HistoBistro's filter
GLASS = 200  # every channel of clear glass reaches this
GLASS_TINT = 40  # and they are not farther apart
PIECE_SHARE = 0.1  # of the picture: so large a piece is no speck, however small the picture
GLASS_SHARE = 0.01  # of a slide, before its glass is believed to be seen


def tissue_mask(thumbnail: np.ndarray, mpp: float, settings: TileSettings) -> tuple[np.ndarray, str]:
    """((h, w) bool, how it was found in words) of a thumbnail (h, w, 3) uint8 at `mpp` micrometres per pixel."""
    shape = thumbnail.shape[:2]
    if settings.tissue == "white":
        white = (thumbnail > np.array(WHITE_ABOVE)).all(-1)
        return ~white & ~black(thumbnail), f"neither white nor black at {mpp:.3g} um/px"
    if settings.tissue != "otsu":
        return np.ones(shape, bool), "the whole slide"
    saturation = saturation_of(thumbnail)
    marks = black(thumbnail) | ink(thumbnail) if "pen" in settings.checks else black(thumbnail)
    unusable = _grown(_without_small(marks, settings.min_piece_um2 / mpp**2), 1)  # nuclei are no marks
    threshold = otsu_threshold(saturation[~unusable], settings)
    mask = clean((saturation > threshold) & ~unusable, mpp, settings)
    return mask & ~unusable, f"saturation above {threshold:.0f} (Otsu) at {mpp:.3g} um/px, cleaned"


def saturation_of(thumbnail: np.ndarray) -> np.ndarray:
    """(h, w) uint8 saturation of HSV, slightly blurred, with the tint of the glass taken out."""
    glass = glass_colour(thumbnail)
    levels = np.minimum(np.arange(256)[:, None] * (255.0 / glass) + 0.5, 255).astype(np.uint8)
    balanced = cv2.LUT(thumbnail, levels[None])
    blurred = cv2.GaussianBlur(balanced, (3, 3), 0)
    saturation = cv2.cvtColor(blurred, cv2.COLOR_RGB2HSV)[..., 1].copy()
    saturation[blurred.max(-1) < BLACK_BELOW] = 0  # a hue of near-black is noise
    return saturation


def glass_colour(thumbnail: np.ndarray) -> np.ndarray:
    """(3,) the commonest bright colour of little tint, which is the glass; white where none is seen."""
    pixels = thumbnail.reshape(-1, 3)
    low, high = pixels.min(1), pixels.max(1)
    bright = pixels[(low >= GLASS) & (high - low <= GLASS_TINT)]
    if len(bright) < GLASS_SHARE * len(pixels):
        return np.full(3, 255.0)
    green = bright[:, 1]
    commonest = np.bincount(green, minlength=256).argmax()
    return np.median(bright[np.abs(green.astype(int) - commonest) <= 2], axis=0)


def otsu_threshold(saturation: np.ndarray, settings: TileSettings) -> float:
    """Otsu's threshold of saturations (n,) uint8, within the bounds of the settings."""
    if not saturation.size:
        return settings.max_saturation
    found, _ = cv2.threshold(saturation.reshape(1, -1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return float(np.clip(found, settings.min_saturation, settings.max_saturation))


def clean(mask: np.ndarray, mpp: float, settings: TileSettings) -> np.ndarray:
    """(h, w) bool: gaps closed, holes filled, threads cut, specks dropped.

    In this order, for the walls of fat cells are threads as long as the cells are holes.
    """
    closed = _morphed(mask.astype(np.uint8), cv2.MORPH_CLOSE, round(settings.close_um / mpp / 2))
    filled = 1 - _without_small(1 - closed, settings.max_hole_um2 / mpp**2, at_edge=True)
    opened = _morphed(filled, cv2.MORPH_OPEN, round(settings.open_um / mpp / 2))
    least_px = min(settings.min_piece_um2 / mpp**2, PIECE_SHARE * mask.size)
    return _without_small(opened, least_px) > 0


def _morphed(mask: np.ndarray, operation: int, radius: int) -> np.ndarray:
    """What lies beyond the edge of the picture neither grows nor shrinks the mask: it repeats the edge."""
    if radius < 1:
        return mask
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    padded = cv2.copyMakeBorder(mask, *(2 * radius,) * 4, cv2.BORDER_REPLICATE)
    return cv2.morphologyEx(padded, operation, kernel)[2 * radius : -2 * radius, 2 * radius : -2 * radius]


def _without_small(mask: np.ndarray, least_px: float, at_edge: bool = False) -> np.ndarray:
    """The mask as uint8 without its pieces below so many pixels; with `at_edge`, those at its edge stay: they may be
    part of something large, and are no holes."""
    pixels = np.ascontiguousarray(mask, np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= least_px
    if at_edge:
        keep[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = True
    keep[0] = False  # the label of what is not in the mask
    return keep[labels].astype(np.uint8)


def _grown(mask: np.ndarray, radius: int) -> np.ndarray:
    side = 2 * radius + 1
    return cv2.dilate(mask, np.ones((side, side), np.uint8)) > 0


def shares(mask: np.ndarray, scale: float, coords: np.ndarray, footprint: float) -> np.ndarray:
    """(n,) float32: how much of each tile the mask covers, by area, pixels cut by its edge counted in part.

    Args:
        mask: (h, w) bool.
        scale: level-0 pixels per pixel of the mask.
        coords: (n, 2) corners in level-0 pixels.
        footprint: side of a tile in level-0 pixels.
    """
    integral = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    integral[1:, 1:] = mask.astype(np.float64).cumsum(0).cumsum(1)
    left, top = (coords / scale).T
    right, bottom = ((coords + footprint) / scale).T
    area = _upto(integral, right, bottom) - _upto(integral, left, bottom)
    area += _upto(integral, left, top) - _upto(integral, right, top)
    return np.clip(area * (scale / footprint) ** 2, 0, 1).astype(np.float32)


def _upto(integral: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Area of the mask left of x and above y: between corners of pixels it is exactly bilinear."""
    rows, columns = integral.shape[0] - 1, integral.shape[1] - 1
    x, y = np.clip(x, 0, columns), np.clip(y, 0, rows)
    i, j = np.minimum(y.astype(int), rows - 1), np.minimum(x.astype(int), columns - 1)
    down, across = y - i, x - j
    upper = integral[i, j] * (1 - across) + integral[i, j + 1] * across
    lower = integral[i + 1, j] * (1 - across) + integral[i + 1, j + 1] * across
    return upper * (1 - down) + lower * down
