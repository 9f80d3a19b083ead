"""Macenko's stain normalisation (Macenko et al. 2009; specs/patch_eval.md section 2).

Optical density OD = -ln((I + 1) / 240) of each channel. The two stains span a plane in it, found from the pixels
whose every channel has OD of at least 0.15; their directions are the 1st and 99th percentile of the angle in that
plane, and the strength of each stain the 99th percentile of its concentration. A tile is normalised by exchanging
directions and strengths for those of a target.

As both are linear in OD, a tile passes through one 3 x 3 matrix, and exp. Signs of the plane's axes, arbitrary in a
decomposition, are fixed by their sums being positive; for tissue that is what the reference gives.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

LIGHT = 240.0  # Io, transmitted light
LEAST_OD = 0.15  # beta
PERCENTILE = 1.0  # alpha
STRENGTH = 99.0  # percentile of the concentrations
DENSITY = -np.log((np.arange(256) + 1) / LIGHT)
DENSITY_32 = DENSITY.astype(np.float32)
BRIGHTEST = int(np.flatnonzero(DENSITY >= LEAST_OD)[-1])  # a channel above it has too little density
LEAST_STAINED = 0.01  # with fewer pixels, the 99th percentile of the concentrations is that of glass


@dataclasses.dataclass(frozen=True, eq=False)
class Macenko:
    """Two stains: `stains` (3, 2), unit columns haematoxylin and eosin in OD of red, green, blue; `strengths` (2,)."""

    stains: np.ndarray
    strengths: np.ndarray


REFERENCE = Macenko(np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]]), np.array([1.9705, 1.0308]))


def fit(image: np.ndarray) -> Macenko | None:
    """The stains of an image (h, w, 3) uint8; None if it has too little stain to tell (fewer than 1 % of pixels)."""
    return _stains_of(image, _densities(image))


def _stains_of(image: np.ndarray, density: np.ndarray) -> Macenko | None:
    red, green, blue = cv2.split(image)
    stained = (cv2.max(cv2.max(red, green), blue) <= BRIGHTEST).ravel()
    count = int(stained.sum())
    if count < max(3, LEAST_STAINED * stained.size):
        return None
    plane = _plane_of(density, stained, count)
    along = plane.T.astype(np.float32) @ density
    angles = np.arctan2(along[1], along[0])[stained]
    ends = np.percentile(angles, (PERCENTILE, 100 - PERCENTILE)).astype(np.float64)
    stains = plane @ np.stack([np.cos(ends), np.sin(ends)])
    if stains[0, 0] <= stains[0, 1]:  # haematoxylin takes more of the red light
        stains = stains[:, ::-1]
    if np.linalg.det(stains.T @ stains) < 1e-9:  # one colour only
        return None
    strengths = np.percentile(_concentrations(stains, density), STRENGTH, axis=1).astype(np.float64)
    return Macenko(stains, strengths) if (strengths > 0).all() else None


def _plane_of(density: np.ndarray, stained: np.ndarray, count: int) -> np.ndarray:
    """(3, 2) axes of the plane with most variance, the larger one last."""
    used = np.compress(stained, density, axis=1).astype(np.float64)
    mean = used.sum(1) / count
    covariance = (used @ used.T - count * np.outer(mean, mean)) / (count - 1)
    _, axes = np.linalg.eigh(covariance)
    return axes[:, 1:] * np.where(axes[:, 1:].sum(0) < 0, -1, 1)


def _concentrations(stains: np.ndarray, density: np.ndarray) -> np.ndarray:
    """(2, h * w) float32: haematoxylin and eosin of each pixel, by least squares in OD."""
    return np.linalg.pinv(stains).astype(np.float32) @ density


def apply(tile: np.ndarray, target: Macenko = REFERENCE, source: Macenko | None = None) -> np.ndarray:
    """The tile (h, w, 3) uint8 in the stains of `target`; with too little stain it comes back as it is.

    `source` are the stains of the tile, fitted to itself where they are not given.
    """
    density = _densities(tile)
    source = source or _stains_of(tile, density)
    if source is None:
        return tile
    scale = np.diag(target.strengths / source.strengths)
    matrix = target.stains @ scale @ np.linalg.pinv(source.stains)
    return _light(matrix.astype(np.float32) @ density, tile.shape)


def separate(
    tile: np.ndarray, target: Macenko = REFERENCE, source: Macenko | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Images (h, w, 3) uint8 of haematoxylin alone and of eosin alone, normalised; None with too little stain."""
    density = _densities(tile)
    source = source or _stains_of(tile, density)
    if source is None:
        return None
    found = _concentrations(source.stains, density) * (target.strengths / source.strengths).astype(np.float32)[:, None]
    alone = [_light(target.stains[:, i : i + 1].astype(np.float32) * found[i], tile.shape) for i in (0, 1)]
    return alone[0], alone[1]


def _densities(image: np.ndarray) -> np.ndarray:
    """(3, h * w) float32."""
    return np.stack([cv2.LUT(channel, DENSITY_32).ravel() for channel in cv2.split(image)])


def _light(density: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 image of `shape` from OD (3, h * w); brighter than 255 is 255, fractions are cut as in the reference."""
    intensity = cv2.exp(-density) * np.float32(LIGHT)
    levels = np.minimum(intensity, 255).astype(np.uint8)
    return cv2.merge([channel.reshape(shape[:2]) for channel in levels])
