"""Which tiles of a slide are cut: the grid, less what has no tissue, what annotations leave out, and the surplus."""

from __future__ import annotations

import dataclasses

import numpy as np

from histojax.slides.checks import check_tile
from histojax.slides.geojson import Polygons, rasterise
from histojax.slides.grid import TooManyPlaces, grid, subsample
from histojax.slides.settings import TileSettings
from histojax.slides.slide import BadSlide, Slide
from histojax.slides.tissue import shares, tissue_mask

__all__ = ["Choice", "check_tile", "choose_tiles"]

NO_TISSUE, OUTSIDE, EXCLUDED = "no tissue", "outside the annotation", "excluded by annotation"
SURPLUS, TOO_SMALL = "sub-sampled", "slide smaller than a tile"


@dataclasses.dataclass
class Choice:
    """The tiles of one slide to cut.

    Args:
        coords: (n, 2) int64, corners (x, y) in level-0 pixels, row by row.
        footprint: side of a tile in level-0 pixels.
        shares: (n,) float32, how much of each tile is tissue.
        mask: (h, w) bool, the tissue.
        scale: level-0 pixels per pixel of the mask.
        thumbnail: (h, w, 3) uint8 that the mask was found on.
        rejected: reason: number of tiles of the grid that are not among `coords`.
        mask_from: how the mask was found, in words.
    """

    coords: np.ndarray
    footprint: float
    shares: np.ndarray
    mask: np.ndarray
    scale: float
    thumbnail: np.ndarray
    rejected: dict[str, int]
    mask_from: str


def choose_tiles(
    slide: Slide, settings: TileSettings, include: Polygons | None = None, exclude: Polygons | None = None
) -> Choice:
    """The tiles of an opened slide; the pixels of each have still to pass `check_tile`.

    With `include`, tiles must lie in these annotations, with `exclude` not in those, by the shares that the
    settings say. A limit of tiles (max_tiles) is applied last, so a slide may end with fewer after `check_tile`.
    Raises BadSlide if it cannot be read at all, or has more places than memory.
    """
    try:
        coords, footprint = grid(slide.size, slide.mpp, settings)
    except TooManyPlaces as error:
        raise BadSlide(slide.path, str(error)) from error
    thumbnail, scale = slide.thumbnail(settings.mask_mpp)
    mask, mask_from = tissue_mask(thumbnail, slide.mpp * scale, settings)
    share = _tissue_shares(mask, scale, coords, footprint, settings)
    reasons = np.full(len(coords), "", dtype=object)
    _reject(reasons, share < settings.min_tissue, NO_TISSUE)
    if include is not None:
        inside = shares(rasterise(include, mask.shape, scale), scale, coords, footprint)
        _reject(reasons, inside < settings.min_inside, OUTSIDE)
    if exclude is not None:
        excluded = shares(rasterise(exclude, mask.shape, scale), scale, coords, footprint)
        _reject(reasons, excluded > settings.max_excluded, EXCLUDED)
    left = np.flatnonzero(reasons == "")
    chosen = left[subsample(len(left), settings.max_tiles, settings.seed, slide.name)]
    rejected = {name: int((reasons == name).sum()) for name in (NO_TISSUE, OUTSIDE, EXCLUDED)}
    rejected |= {SURPLUS: len(left) - len(chosen), TOO_SMALL: int(not len(coords))}
    counted = {name: count for name, count in rejected.items() if count}
    return Choice(coords[chosen], footprint, share[chosen], mask, scale, thumbnail, counted, mask_from)


def _tissue_shares(
    mask: np.ndarray, scale: float, coords: np.ndarray, footprint: float, settings: TileSettings
) -> np.ndarray:
    if settings.tissue in ("none", "histobistro"):  # exactly all of it, whatever the edge of the mask rounds to
        return np.ones(len(coords), np.float32)
    return shares(mask, scale, coords, footprint)


def _reject(reasons: np.ndarray, which: np.ndarray, reason: str) -> None:
    """A tile keeps its first reason."""
    reasons[which & (reasons == "")] = reason
