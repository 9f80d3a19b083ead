"""Image encoder of SAM (Kirillov et al. 2023; facebookresearch/segment-anything dca509f): a ViTDet-style ViT.

Most blocks attend inside windows, some over the whole map; both add decomposed relative positions to the scores.
The map is padded for windowing after the norm and padded places are ordinary keys, as in the original.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from histojax.models.blocks import Block, Conv, check_side, in_order, numbered, run_blocks, stacked
from histojax.models.layers import layer_norm, patchify

SCORES = 1 << 22  # attention scores in memory at a time (16 MiB: a processor's cache); more run in turns


@dataclasses.dataclass(frozen=True)
class SamConfig:
    """Static description of a SAM image encoder."""

    dim: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]  # blocks that attend over the whole map
    window: int = 14
    patch: int = 16
    image: int = 1024  # side in pixels; positions are not resampled
    features: int = 256
    global_rows: int | None = None  # rows of the global blocks' tables where they are not 2 * grid - 1
    eps: float = 1e-6
    dtype: Any = jnp.float32  # of the matrix products

    @property
    def grid(self) -> int:
        """Side of the patch grid."""
        return self.image // self.patch


SAM_B = SamConfig(768, 12, 12, (2, 5, 8, 11))
SAM_L = SamConfig(1024, 24, 16, (5, 11, 17, 23))
SAM_H = SamConfig(1280, 32, 16, (7, 15, 23, 31))


class RelativePositions(nnx.Module):
    """Vectors (rows, d) for differences of rows (`h`) and of columns (`w`)."""

    def __init__(self, rows: int, dim: int):
        self.h = nnx.Param(jnp.zeros((rows, dim), jnp.float32))
        self.w = nnx.Param(jnp.zeros((rows, dim), jnp.float32))


class Neck(nnx.Module):
    """1x1 and 3x3 convolution, each followed by LayerNorm over the channels."""

    def __init__(self, dim: int, features: int, eps: float, rngs: nnx.Rngs):
        self.conv1, self.norm1 = Conv(dim, features, 1, rngs=rngs), layer_norm(features, eps, rngs)
        self.conv2, self.norm2 = Conv(features, features, 3, pad=1, rngs=rngs), layer_norm(features, eps, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm2(self.conv2(self.norm1(self.conv1(x))))


class Sam(nnx.Module):
    """SAM image encoder; see `__call__`."""

    def __init__(self, config: SamConfig, rngs: nnx.Rngs):
        c = self.config = config
        self.patch_embed = nnx.Linear(3 * c.patch**2, c.dim, dtype=c.dtype, rngs=rngs)
        self.pos_embed = nnx.Param(jnp.zeros((1, c.grid, c.grid, c.dim), jnp.float32))
        block = partial(Block, c.dim, c.heads, 4 * c.dim, eps=c.eps, dtype=c.dtype)
        self.blocks = stacked(lambda r: block(rngs=r), c.depth, rngs)
        rows = {False: 2 * c.window - 1, True: c.global_rows or 2 * c.grid - 1}
        self.rel_pos = numbered(RelativePositions(rows[i in c.global_blocks], c.dim // c.heads) for i in range(c.depth))
        self.neck = Neck(c.dim, c.features, c.eps, rngs)

    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Embedding of images (N, image, image, 3), float32 and normalised.

        Returns `map` (N, grid, grid, features): the neck's output; its mean `pooled` and maximum `pooled_max`
        (N, features) over the grid; and `tokens` (N, grid, grid, D) before the neck.
        """
        tokens, _ = self._run(self.embed(images))
        out = self.neck(tokens)
        return {"map": out, "pooled": out.mean((1, 2)), "pooled_max": out.max((1, 2)), "tokens": tokens}

    def hidden_states(self, images: jax.Array) -> jax.Array:
        """(depth + 1, N, grid, grid, D): the embedded patches and the tokens after each block."""
        x = self.embed(images)
        _, every = self._run(x, every=True)
        return jnp.concatenate([x[None], every])

    def embed(self, images: jax.Array) -> jax.Array:
        """(N, grid, grid, D) float32: patches with absolute positions."""
        check_side(images, self.config.image, "SAM")
        x = self.patch_embed(patchify(images, self.config.patch))
        return x.astype(jnp.float32) + self.pos_embed[...]

    def _run(self, x: jax.Array, every: bool = False) -> tuple[jax.Array, Any]:
        """A block is windowed or global by a condition inside the scan, so that each kind is compiled once."""
        c = self.config
        whole = np.array([i in c.global_blocks for i in range(c.depth)])

        def mix(attn, y, own):
            is_global, global_tables, window_tables = own
            return jax.lax.cond(
                is_global,
                lambda: attend_map(attn, y, global_tables),
                lambda: attend_windows(attn, y, window_tables, c.window),
            )

        return run_blocks(
            self.blocks, x, mix, (whole, self._tables(whole, c.grid), self._tables(~whole, c.window)), every
        )

    def _tables(self, wanted: np.ndarray, size: int) -> tuple[jax.Array, jax.Array]:
        """Tables of rows and columns (depth, 2 * size - 1, d), zero where the block is not `wanted`."""
        blank = jnp.zeros((2 * size - 1, self.config.dim // self.config.heads), jnp.float32)
        tables = [
            (resize_table(p.h[...], size), resize_table(p.w[...], size)) if use else (blank, blank)
            for p, use in zip(in_order(self.rel_pos), wanted)
        ]
        rows, columns = zip(*tables)
        return jnp.stack(rows), jnp.stack(columns)


def resize_table(table: jax.Array, size: int) -> jax.Array:
    """(2 * size - 1, d) from (rows, d): linear interpolation with half-pixel centres where the lengths differ."""
    rows, wanted = len(table), 2 * size - 1
    if rows == wanted:
        return table
    place = np.clip((np.arange(wanted) + 0.5) * rows / wanted - 0.5, 0, rows - 1)
    low = np.floor(place).astype(np.int32)
    high, share = np.minimum(low + 1, rows - 1), (place - low).astype(np.float32)[:, None]
    return table[low] * (1 - share) + table[high] * share


def attend_windows(attn: Any, x: jax.Array, tables: tuple[jax.Array, jax.Array], window: int) -> jax.Array:
    """Attention within windows of x (N, H, W, D), zero-padded at the bottom and right to whole windows."""
    n, height, width, dim = x.shape
    x = jnp.pad(x, [(0, 0), (0, -height % window), (0, -width % window), (0, 0)])
    down, across = x.shape[1] // window, x.shape[2] // window
    x = x.reshape(n, down, window, across, window, dim).swapaxes(2, 3).reshape(-1, window, window, dim)
    x = attend_map(attn, x, tables).reshape(n, down, across, window, window, dim)
    return x.swapaxes(2, 3).reshape(n, down * window, across * window, dim)[:, :height, :width]


def attend_map(attn: Any, x: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Attention over all places of x (N, H, W, D), tables of relative positions (2H-1, d) and (2W-1, d)."""
    n, height, width, dim = x.shape
    core = partial(relative_attention, rows=tables[0], columns=tables[1], size=(height, width))
    return attn(x.reshape(n, height * width, dim), core).reshape(x.shape)


def relative_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, rows: jax.Array, columns: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """(N, T, H, d) attention with decomposed relative positions (Li et al. 2022, MViTv2, sec. 4.1).

    The query's product with the vector of the row difference, and of the column difference, is added to the
    scores. There the query is not scaled. Map rows of queries are run in turns if the scores of all
    would exceed `SCORES`.
    """
    n, tokens, heads, dim = q.shape
    height, width = size
    grid = q.reshape(n, height, width, heads, dim)
    by_row = jnp.einsum("nijhd,ikd->nhijk", grid, _differences(rows, height), preferred_element_type=jnp.float32)
    by_column = jnp.einsum("nijhd,jkd->nhijk", grid, _differences(columns, width), preferred_element_type=jnp.float32)
    q = (grid * dim**-0.5).transpose(0, 3, 1, 2, 4)  # (N, H, rows, columns, d)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)

    def some_rows(part):
        q, by_row, by_column = part  # (N, H, r, columns, ...)
        flat, square = (n, heads, -1), q.shape[:4] + size
        scores = jnp.einsum("nhtd,nhsd->nhts", q.reshape(*flat, dim), k, preferred_element_type=jnp.float32)
        # added and reduced over rows and columns: flattening the sum first costs a pass over memory
        scores = scores.reshape(square) + by_row[..., :, None] + by_column[..., None, :]
        weights = jnp.exp(scores - scores.max((-1, -2), keepdims=True))
        mixed = weights.reshape(*flat, tokens).astype(v.dtype)
        out = jnp.einsum("nhts,nhsd->nhtd", mixed, v, preferred_element_type=jnp.float32)
        return (out.reshape(q.shape) / weights.sum((-1, -2))[..., None]).astype(v.dtype)

    out = in_turns(some_rows, (q, by_row, by_column), turns(height, n * heads * tokens * tokens))
    return out.transpose(0, 2, 3, 1, 4).reshape(n, tokens, heads, dim)


def _differences(table: jax.Array, size: int) -> jax.Array:
    """(size, size, d): the table's row for query i and key k, numbered i - k + size - 1."""
    place = np.arange(size)
    return table[place[:, None] - place + size - 1]


def turns(rows: int, scores: int) -> int:
    """The smallest divisor of `rows` that cuts `scores` into parts of at most SCORES (or single rows)."""
    return next((t for t in range(1, rows) if rows % t == 0 and scores // t <= SCORES), rows)


def in_turns(function, arrays: Any, count: int) -> jax.Array:
    """function(arrays), whose axis 2 is cut into `count` parts that are run one after the other."""
    if count == 1:
        return function(arrays)

    def cut(x):
        return jnp.moveaxis(x.reshape(*x.shape[:2], count, -1, *x.shape[3:]), 2, 0)

    parts = jax.lax.map(function, jax.tree.map(cut, arrays))
    whole = jnp.moveaxis(parts, 0, 2)
    return whole.reshape(*whole.shape[:2], -1, *whole.shape[4:])
