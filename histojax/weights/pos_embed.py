"""Resampling of the learned position grid when weights are loaded, in numpy.

The libraries that share DINOv2 weights resample them in different ways (common.bicubic lists them), and the features
differ. So we resample once, when importing, and export the grid that was used.
"""

from __future__ import annotations

import math

import numpy as np

from histojax.common.bicubic import MODES, resample_matrix
from histojax.common.errors import UserError

LIBRARIES = {  # whose features are wanted: mode without registers, mode with registers
    "meta": ("offset", "antialias"),
    "hf": ("exact", "antialias"),
    "timm": ("antialias", "antialias"),
    "paper": ("exact", "exact"),
}


def resample_grid(
    pos_embed: np.ndarray, new_grid: int | tuple[int, int], mode: str = "exact", *, front: int = 1
) -> np.ndarray:
    """Return (1, front + h * w, D) float32: the first rows untouched, the square grid resampled to `new_grid`.

    Args:
        pos_embed: (1, front + G * G, D).
        new_grid: g, or (h, w) in patches.
        mode: one of `MODES`. An equal grid is returned as it is, in every mode.
        front: rows that belong to no patch: the class row, and those of registers.
    """
    if mode not in MODES:
        raise UserError(f"unknown position mode {mode!r}; known are {', '.join(MODES)}")
    height, width = (new_grid, new_grid) if isinstance(new_grid, int) else new_grid
    side = grid_side(pos_embed, front)
    pos_embed = np.asarray(pos_embed, np.float32)
    if (height, width) == (side, side):
        return pos_embed
    rows, columns = (resample_matrix(size, side, mode) for size in (height, width))
    grid = pos_embed[0, front:].reshape(side, side, -1)
    # columns first, then rows, in float32: the order of torch's kernel
    grid = np.einsum("wk,gkd->gwd", columns, grid)
    grid = np.einsum("hg,gwd->hwd", rows, grid).reshape(1, height * width, -1)
    return np.concatenate([pos_embed[:, :front], grid], axis=1)


def mode_of(positions: str, registers: bool) -> str:
    """Return the mode of `MODES` by which a library ("meta", "hf", "timm", "paper") resamples; a mode is its own.

    Args:
        positions: name of a library, or a mode.
        registers: whether the model has register tokens.

    Raises UserError for any other name.
    """
    if positions in MODES:
        return positions
    if positions not in LIBRARIES:
        known = ", ".join((*LIBRARIES, *MODES))
        raise UserError(f"unknown position mode {positions!r}; known are {known}")
    return LIBRARIES[positions][registers]


def grid_side(pos_embed: np.ndarray, front: int = 1) -> int:
    """Return G of a (1, front + G * G, D) position embedding."""
    rows = pos_embed.shape[1] - front
    side = math.isqrt(max(rows, 0))
    if pos_embed.ndim != 3 or pos_embed.shape[0] != 1 or side < 1 or side * side != rows:
        raise UserError(f"pos_embed of shape {pos_embed.shape} is not (1, {front} + G * G, D)")
    return side
