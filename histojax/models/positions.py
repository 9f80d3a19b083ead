"""Resampling of learned position grids, as torch's bicubic interpolation does it; see common.bicubic."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from histojax.common.bicubic import resample_matrix


def resample(grid: jax.Array, size: tuple[int, int], mode: str) -> jax.Array:
    """(h * w, D) float32 from a square grid (G * G, D), row by row; differentiable in the grid."""
    side = round(grid.shape[0] ** 0.5)
    # the matrices are made with numpy, while tracing
    rows, columns = (jnp.asarray(resample_matrix(n, side, mode)) for n in size)
    square = grid.astype(jnp.float32).reshape(side, side, -1)
    # full float32 products: accelerators would round the positions to bfloat16
    out = jnp.einsum("hg,gkd->hkd", rows, square, precision="highest")
    return jnp.einsum("wk,hkd->hwd", columns, out, precision="highest").reshape(size[0] * size[1], -1)
