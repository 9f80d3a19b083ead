"""Reinhard's colour transfer (Reinhard et al. 2001): mean and spread of each channel of CIE Lab become a target's.

    L, a, b -> (channel - mean) / deviation * target deviation + target mean

Lab is CIE 1976 with white D65 from sRGB (L 0 to 100), the usual choice in pathology in place of the paper's l-alpha-
beta. Mean and deviation are those of stained pixels, whose green is at most 205: glass in a tile would otherwise pull
its tissue away from the target. Glass, of green 230 and more, stays as it is, as the transfer would tint it; between
the two, pixels are mixed.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

BRIGHTEST_GREEN = 205  # both stains absorb green; an optical density of 0.15 as in macenko.py
GLASS_GREEN = 230
LEAST_STAINED = 0.01  # share of the pixels
LEAST_DEVIATION = 0.5  # a flat channel is moved, not stretched

# of the transferred pixel in the result, by its green
STAINED_SHARE = np.interp(np.arange(256), (BRIGHTEST_GREEN, GLASS_GREEN), (1, 0)).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Reinhard:
    """`mean` and `deviation` (3,) of L, a, b over stained pixels."""

    mean: np.ndarray
    deviation: np.ndarray


# medians over 240 H&E tiles of many organs of TCGA
REFERENCE = Reinhard(np.array([52.10, 29.30, -14.31]), np.array([14.78, 5.59, 4.84]))


def fit(image: np.ndarray) -> Reinhard | None:
    """The colours of an image (h, w, 3) uint8; None if fewer than 1 % of its pixels are stained."""
    return _of_lab(_lab(image), image)


def _of_lab(lab: np.ndarray, image: np.ndarray) -> Reinhard | None:
    stained = (image[..., 1] <= BRIGHTEST_GREEN).astype(np.uint8)
    if stained.sum() < max(1, LEAST_STAINED * stained.size):
        return None
    mean, deviation = cv2.meanStdDev(lab, mask=stained)
    return Reinhard(mean[:, 0], deviation[:, 0])


def apply(tile: np.ndarray, target: Reinhard = REFERENCE, source: Reinhard | None = None) -> np.ndarray:
    """The tile (h, w, 3) uint8 in the colours of `target`; with too little stain it comes back as it is.

    `source` are the colours of the tile, its own where they are not given.
    """
    lab = _lab(tile)
    source = source or _of_lab(lab, tile)
    if source is None:
        return tile
    flat = source.deviation < LEAST_DEVIATION
    gain = np.where(flat, 1.0, target.deviation / np.where(flat, 1.0, source.deviation))
    moved = lab * gain.astype(np.float32) + (target.mean - gain * source.mean).astype(np.float32)
    moved[..., 0] = np.clip(moved[..., 0], 0, 100)
    rgb = np.clip(cv2.cvtColor(moved, cv2.COLOR_Lab2RGB), 0, 1) * np.float32(255)
    mixed = tile + STAINED_SHARE[tile[..., 1]][..., None] * (rgb - tile)
    return cv2.convertScaleAbs(mixed)  # rounded


def _lab(image: np.ndarray) -> np.ndarray:
    """(h, w, 3) float32."""
    return cv2.cvtColor(image.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2Lab)
