"""Is a tile worth keeping? Its own pixels say, and what is wrong has a name.

The thresholds are lenient: of 5,737 tiles of tissue of six public sets, on some of which they were chosen, they reject
8, of them 7 for a bright red that may be ink or blood; of 5,825 tiles that were not looked at before, 1
(`tools/measure_tiles.py SET` counts them on yours). A scanner that was out of focus still loses whole slides to "blur",
so callers count what is rejected by reason.

- blank: standard deviation of green below `min_contrast` grey levels. Glass has 1 to 5, with dust up to 10; the
  palest tissue, fat, 17 and more.
- pen: more than `max_pen` of the tile has a colour of ink.py.
- blur: `sharpness` below `min_sharpness`.
- histobistro: HistoBistro's filter, where the settings ask for it as their way to find tissue.
"""

from __future__ import annotations

import cv2
import numpy as np

from histojax.slides.ink import black, ink
from histojax.slides.settings import TileSettings
from histojax.slides.tissue import WHITE_ABOVE

FINE, COARSE = 0.7, 1.4  # Gaussians on the tile at half its size, pixels
NOISE = 0.2  # variance of rounding, compression and sensor in what FINE removes, grey levels squared
DARK, LEAST_DARK = 40, 0.05  # HistoBistro: dark pixels that are not black are calcification
CANNY = (40, 100)


def check_tile(tile: np.ndarray, settings: TileSettings) -> str:
    """Why a tile (h, w, 3) uint8 is rejected, "" if it is kept; the first reason that holds."""
    if settings.tissue == "histobistro" and not histobistro_keeps(
        tile, settings.histobistro_invalid, settings.histobistro_edges
    ):
        return "histobistro"
    tests = {
        "blank": lambda: contrast(tile) < settings.min_contrast,
        "blur": lambda: sharpness(tile) < settings.min_sharpness,
        "pen": lambda: pen_share(tile) > settings.max_pen,
    }
    return next((name for name in settings.checks if tests[name]()), "")


def contrast(tile: np.ndarray) -> float:
    """Standard deviation of the green channel, in which both stains show; grey levels."""
    _, deviation = cv2.meanStdDev(cv2.extractChannel(tile, 1))
    return float(deviation[0, 0])


def sharpness(tile: np.ndarray) -> float:
    """Variance of the finest structure, some 3 pixels of the tile, over that of structure twice as coarse.

    In focus it is 0.4 to 3 at 0.25 to 1 um/px, blurred by a Gaussian of 2.5 pixels below 0.33, by one of 4 below
    0.2, and it does not depend on how strong the stain is. Pixels finer than the optics resolve lower it: the least
    in-focus tiles, of 40x or enlarged, come near 0.35.
    """
    green = cv2.extractChannel(tile, 1)
    size = (max(1, tile.shape[1] // 2), max(1, tile.shape[0] // 2))
    half = cv2.resize(green.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    fine, coarse = (cv2.GaussianBlur(half, (0, 0), sigma) for sigma in (FINE, COARSE))
    finest = _power(half, fine) - NOISE
    return max(0.0, finest) / (_power(fine, coarse) + 1e-3)


def _power(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared difference."""
    return cv2.norm(a, b, cv2.NORM_L2SQR) / a.size


def pen_share(tile: np.ndarray) -> float:
    """Share of the tile in colours of ink, or black; measured on 4 x 4 pixels at a time, which averages noise out."""
    size = (max(1, tile.shape[1] // 4), max(1, tile.shape[0] // 4))
    small = cv2.resize(tile, size, interpolation=cv2.INTER_AREA)
    return float((ink(small) | black(small)).mean())


def histobistro_keeps(tile: np.ndarray, invalid: float, edges: float) -> bool:
    """HistoBistro's decision: few white or black pixels and enough edges, or dark pixels as of calcification.

    As in its branch feature_extraction: `invalid` is the largest share of white and black pixels, `edges` the least
    percentage of edge pixels.
    """
    white, dark_to_black, dark = histobistro_shares(tile)
    if dark - dark_to_black >= LEAST_DARK:
        return True
    return white + dark_to_black <= invalid and edge_percentage(tile) >= edges


def histobistro_shares(tile: np.ndarray) -> tuple[float, float, float]:
    """Shares of the pixels that are white, black (all channels 0) and dark (all channels at most 40)."""
    above = tuple(level + 1 for level in WHITE_ABOVE)
    counts = [
        cv2.countNonZero(cv2.inRange(tile, *bounds)) for bounds in ((above, (255,) * 3), (0, 0), (0, (DARK,) * 3))
    ]
    white, black_, dark = (count / (tile.shape[0] * tile.shape[1]) for count in counts)
    return white, black_, dark


def edge_percentage(tile: np.ndarray) -> float:
    """Percentage of the pixels that are edges."""
    edges = edge_map(tile)
    return float(cv2.countNonZero(edges)) * 100 / edges.size


def edge_map(tile: np.ndarray) -> np.ndarray:
    """(h, w) uint8, 255 where OpenCV's Canny filter finds an edge: on colour, aperture 3, L1 gradient."""
    return cv2.Canny(np.ascontiguousarray(tile), *CANNY)
