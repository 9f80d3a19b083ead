"""Resampling of learned position grids, as torch's bicubic interpolation does it.

A grid G x G becomes h x w by two small matrices, made with numpy while tracing: rows (h, G), columns (w, G).
The modes are those of facebookresearch/dinov2 (`interpolate_pos_encoding`); their results differ by more than the
spread of the weights, so each model must keep the mode it was trained with.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

MODES = ("offset", "antialias", "exact", "antialias-offset")


def resample_matrix(size: int, grid: int, mode: str) -> np.ndarray:
    """(size, grid) float32 weights of one axis.

    "offset": bicubic A = -0.75 with step grid / (size + 0.1) (models without registers). "exact": the same
    with step grid / size. "antialias": A = -0.5, support widened when shrinking (register models, timm).
    "antialias-offset": the same with step grid / (size + 0.1).
    """
    offset = 0.1 if mode.endswith("offset") else 0.0
    if mode.startswith("antialias"):  # torch leaves an axis alone whose size stays, here only
        return np.eye(grid, dtype=np.float32) if size == grid else _antialias_matrix(size, grid, grid / (size + offset))
    # torch computes source coordinates in float32 from the reciprocal of the scale factor
    step = np.float32(1.0 / ((size + offset) / grid))
    source = step * (np.arange(size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    base = np.floor(source).astype(np.int64)
    matrix = np.zeros((size, grid), np.float32)
    for tap in range(-1, 3):
        weight = _cubic(source - base - tap, -0.75)
        np.add.at(matrix, (np.arange(size), np.clip(base + tap, 0, grid - 1)), weight)
    return matrix


def _antialias_matrix(size: int, grid: int, step: float) -> np.ndarray:
    scale = max(step, 1.0)
    matrix = np.zeros((size, grid), np.float64)
    for i in range(size):
        centre = step * (i + 0.5)
        low = max(0, int(centre - 2 * scale + 0.5))
        high = min(grid, int(centre + 2 * scale + 0.5))
        weight = _cubic((np.arange(low, high) - centre + 0.5) / scale, -0.5)
        matrix[i, low:high] = weight / weight.sum()
    return matrix.astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel with parameter `a`."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0)).astype(x.dtype)


def resample(grid: jax.Array, size: tuple[int, int], mode: str) -> jax.Array:
    """(h * w, D) float32 from a square grid (G * G, D), row by row; differentiable in the grid."""
    side = round(grid.shape[0] ** 0.5)
    rows, columns = (jnp.asarray(resample_matrix(n, side, mode)) for n in size)
    square = grid.astype(jnp.float32).reshape(side, side, -1)
    # full float32 products: accelerators would round the positions to bfloat16
    out = jnp.einsum("hg,gkd->hkd", rows, square, precision="highest")
    return jnp.einsum("wk,hkd->hwd", columns, out, precision="highest").reshape(size[0] * size[1], -1)
