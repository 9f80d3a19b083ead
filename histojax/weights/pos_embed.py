"""Resampling of the learned position grid when weights are loaded, in numpy.

The libraries that share DINOv2 weights resample them in different ways, and the features differ. So we resample
once, when importing, and export the grid that was used:

- "exact": bicubic with A = -0.75, step G / g, no antialias. How the finetuning of Roth, Koch et al. 2024 goes from
  37 to 16 at its start (torch `interpolate(scale_factor=16 / 37)`), also for register models; and how transformers
  runs models without registers (Dinov2Model).
- "offset": the same with step G / (g + 0.1): facebookresearch/dinov2 for models without registers, at run time.
- "antialias": bicubic with A = -0.5 and widened support: its register models at run time, also in transformers
  (Dinov2WithRegistersModel), and all of timm.
- "antialias-offset": the same with step G / (g + 0.1), which facebookresearch/dinov2 can be configured to.
"""

from __future__ import annotations

import math

import numpy as np

from histojax.common.errors import UserError

MODES = ("exact", "offset", "antialias", "antialias-offset")
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
    rows, columns = (axis_weights(size, side, mode) for size in (height, width))
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


def axis_weights(size: int, grid: int, mode: str) -> np.ndarray:
    """Return (size, grid) float32: what each new position takes of each old one, along one axis."""
    if mode.startswith("antialias"):
        if size == grid:  # torch leaves an axis alone whose size stays, in these modes only
            return np.eye(grid, dtype=np.float32)
        return _antialias_weights(size, grid, grid / (size + 0.1) if mode.endswith("offset") else grid / size)
    # torch computes source coordinates in float32, with the step rounded to float32 first
    step = np.float32(1.0 / ((size + (0.1 if mode == "offset" else 0.0)) / grid))
    source = step * (np.arange(size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    base = np.floor(source)
    weights = np.zeros((size, grid), np.float32)
    for tap in (-1, 0, 1, 2):
        column = np.clip(base.astype(int) + tap, 0, grid - 1)  # the border is repeated
        np.add.at(weights, (np.arange(size), column), _cubic(source - base - np.float32(tap), -0.75))
    return weights


def _antialias_weights(size: int, grid: int, step: float) -> np.ndarray:
    """Weights normalised to sum 1, without repetition of the border, as Pillow does."""
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
