"""Bicubic resampling of one axis as a matrix, in the variants that the libraries of DINOv2 weights have.

A grid of positions G x G becomes h x w by two such matrices, rows (h, G) and columns (w, G). The variants differ by
more than the spread of the weights, so that a model must keep the one it was trained with:

- "exact": A = -0.75, step G / g, no antialias. How the finetuning of Roth, Koch et al. 2024 goes from 37 to 16 at its
  start (torch `interpolate(scale_factor=16 / 37)`), also for register models; and how transformers runs models
  without registers (Dinov2Model).
- "offset": the same with step G / (g + 0.1): facebookresearch/dinov2 for models without registers, at run time.
- "antialias": A = -0.5 and widened support: its register models at run time, also in transformers
  (Dinov2WithRegistersModel), and all of timm.
- "antialias-offset": the same with step G / (g + 0.1), which facebookresearch/dinov2 can be configured to.
"""

from __future__ import annotations

import numpy as np

MODES = ("exact", "offset", "antialias", "antialias-offset")


def resample_matrix(size: int, grid: int, mode: str) -> np.ndarray:
    """Return (size, grid) float32: what a new position takes of each old one. Rows sum to 1; `mode`: see above."""
    offset = 0.1 if mode.endswith("offset") else 0.0
    if mode.startswith("antialias"):
        if size == grid:  # torch leaves an axis alone whose size stays, in these modes only
            return np.eye(grid, dtype=np.float32)
        return _antialias_matrix(size, grid, grid / (size + offset))
    # torch computes source coordinates in float32, from the reciprocal of the scale factor
    step = np.float32(1.0 / ((size + offset) / grid))
    source = step * (np.arange(size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    base = np.floor(source)
    matrix = np.zeros((size, grid), np.float32)
    for tap in (-1, 0, 1, 2):
        column = np.clip(base.astype(int) + tap, 0, grid - 1)  # the border is repeated
        np.add.at(matrix, (np.arange(size), column), _cubic(source - base - np.float32(tap), -0.75))
    return matrix


def _antialias_matrix(size: int, grid: int, step: float) -> np.ndarray:
    """Return weights normalised to sum 1, without repetition of the border, as Pillow does."""
    stretch = max(step, 1.0)
    centres = step * (np.arange(size) + 0.5)
    columns = np.arange(grid)
    low = np.maximum(np.trunc(centres - 2 * stretch + 0.5), 0)[:, None]
    high = np.minimum(np.trunc(centres + 2 * stretch + 0.5), grid)[:, None]
    weights = _cubic((columns - centres[:, None] + 0.5) / stretch, -0.5)
    weights = np.where((columns >= low) & (columns < high), weights, 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Return the cubic convolution kernel of Keys 1981 with parameter a."""
    x = np.abs(x)
    near = 1 + x * x * ((a + 2) * x - (a + 3))
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0)).astype(x.dtype)
