"""The grid of tiles over a slide, and which of them a limit keeps."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from histojax.slides.settings import TileSettings

MOST_PLACES = 10_000_000  # on a slide: 2 GB of memory; at 0.25 um/px a slide of 25 mm has 160,000 of 256 px
TOLERANCE_PX = 0.01  # of the slide's edge: what rounding of mpp may cost without losing a row of tiles


class TooManyPlaces(ValueError):
    """A grid that no memory holds; the text says how many places it would have and what to change."""


def grid(size: tuple[int, int], slide_mpp: float, settings: TileSettings) -> tuple[np.ndarray, float]:
    """((n, 2) int64 corners (x, y) in level-0 pixels, row by row; the side of a tile there, not rounded).

    Corner i is round(i * step) of the exact step, so that no error adds up over a slide. Tiles that do not fit
    into `size` (width, height) are left out; a slide smaller than a tile has none. Raises TooManyPlaces.
    """
    ratio = settings.mpp / slide_mpp
    footprint, step = settings.tile_px * ratio, settings.step_px * ratio
    xs, ys = (_corners(extent, footprint, step) for extent in size)
    if len(xs) * len(ys) > MOST_PLACES:
        raise TooManyPlaces(
            f"{len(xs) * len(ys):,} places for tiles of {settings.tile_px} px that overlap by {settings.overlap_px}, "
            f"at most {MOST_PLACES:,} are possible: take larger tiles, or less overlap"
        )
    coords = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)  # y is the slow one
    return coords, footprint


def _corners(extent: int, footprint: float, step: float) -> np.ndarray:
    most = max(0, math.floor((extent - footprint) / step) + 2)
    corners = np.round(np.arange(most) * step).astype(np.int64)
    return corners[corners + footprint <= extent + TOLERANCE_PX]


def subsample(count: int, most: int | None, seed: int, slide: str) -> np.ndarray:
    """Indices (k,) of at most `most` of `count` tiles, ascending.

    The choice depends on the seed and on the slide's name alone, so neither the order of the slides nor how they
    are split over jobs changes it.
    """
    if most is None or count <= most:
        return np.arange(count)
    digest = hashlib.sha256(f"{seed}\0{slide}".encode("utf-8", "surrogateescape")).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:16], "big"))
    return np.sort(generator.choice(count, most, replace=False))
